"""The database of studies: SQLite beside the runs, or a server that several machines reach (OPTUNA_STORAGE)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from config import ROOT, Settings
from core.errors import AppError, UsageError, one_line
from core.i18n import tr
from core.locks import file_lock
from core.safety.redaction import redact
from core.safety.urls import without_credentials
from utils.mlflow_utils import tracking_uri

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from sqlalchemy import URL

FILE = "sweeps.db"  # in models/, beside the directories of the runs
OF_MLFLOW = "mlflow"  # value of OPTUNA_STORAGE: the database of MLFLOW_TRACKING_URI
SCHEMA = "optuna"  # of the studies' tables in a PostgreSQL database that MLflow uses
PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
BUSY_S = 60  # seconds that SQLite waits for another process


def require_optuna() -> None:
    """Raise UsageError if the optional package is missing; called before any work."""
    try:
        import optuna
    except ImportError:
        raise UsageError(tr("--sweep needs Optuna: pip install optuna")) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def storage_url(settings: Settings) -> str:
    """Return the URL of the studies' database. Raises UsageError if that of MLflow is asked for and cannot be reached."""
    if settings.optuna_storage is None:
        return f"sqlite:///{(settings.model_path.parent / FILE).as_posix()}"
    if settings.optuna_storage != OF_MLFLOW:
        return settings.optuna_storage
    uri = tracking_uri(settings)
    if uri.startswith("sqlite:"):  # MLflow's tables and Optuna's cannot be in one file
        return f"sqlite:///{(settings.model_path.parent / FILE).as_posix()}"
    if uri.partition("://")[0].partition("+")[0] in ("postgresql", "mysql", "mssql"):
        return uri
    raise UsageError(
        tr(
            "OPTUNA_STORAGE=mlflow: {uri} is a server, which does not give access to its database: set OPTUNA_STORAGE to "
            "the URL of that database, such as postgresql://USER:PASSWORD@HOST/mlflow",
            uri=without_credentials(uri),
        )
    )


def open_storage(settings: Settings) -> RDBStorage:
    """Return the studies' database; its tables are created at the first call. Raises AppError if it cannot be used."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    text = storage_url(settings)
    shown = without_credentials(text)
    try:
        url = make_url(text)
        if not url.database or url.get_backend_name() != "sqlite":
            return _connect(url)
        file = ROOT / url.database  # a relative one, as all paths of settings
        url = url.set(database=str(file))
        # Two processes that create the tables at once would disturb each other.
        with file_lock(file.with_name(f".{file.name}.lock"), tr("another process prepares the sweep: waiting")):
            return _connect(url)
    except ModuleNotFoundError as error:
        fix = PACKAGES.get(error.name or "", error.name or "")
        raise UsageError(
            tr(
                "OPTUNA_STORAGE={url}: needs the Python package '{name}': pip install '{fix}'",
                url=shown,
                name=error.name,
                fix=fix,
            )
        ) from None
    except ArgumentError as error:
        raise UsageError(
            tr(
                "OPTUNA_STORAGE={url}: not a database that can be used here ({error})",
                url=shown,
                error=one_line(error, 200),
            )
        ) from None
    except (SQLAlchemyError, RuntimeError) as error:  # RuntimeError: tables of another version of Optuna
        reason = redact(one_line(error, 300))
        raise AppError(tr("database of studies {url}: {reason}", url=shown, reason=reason)) from error


def _connect(url: URL) -> RDBStorage:
    import sqlalchemy
    from optuna.storages import RDBStorage

    logging.getLogger("alembic").setLevel(logging.WARNING)
    backend = url.get_backend_name()
    options = {"connect_args": {"timeout": BUSY_S}} if backend == "sqlite" else {}
    engine = sqlalchemy.create_engine(url, **options)
    try:
        tables = sqlalchemy.inspect(engine)
        # Both MLflow and Optuna keep the version of their tables in a table of this name.
        if tables.has_table("alembic_version") and not tables.has_table("version_info"):
            if backend != "postgresql":
                raise UsageError(
                    tr(
                        "OPTUNA_STORAGE={url}: has the tables of another program: use a database of its own",
                        url=without_credentials(url.render_as_string(hide_password=False)),
                    )
                )
            with engine.begin() as connection:
                connection.execute(sqlalchemy.schema.CreateSchema(SCHEMA, if_not_exists=True))
            url = url.update_query_dict({"options": f"-csearch_path={SCHEMA}"})
    finally:
        engine.dispose()
    return RDBStorage(url.render_as_string(hide_password=False), engine_kwargs=options)
