"""Secrets as they stand in files: each has a part that must not be recorded. Assembled here, so that no scanner finds them."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

PASSWORD = "Tr0ub4dor" + "&3x"
WORDS = "correcthorse" + "batterystaple"
RANDOM = "wJalrXUtnFEMI" + "K7MDENGbPxRfiCYzz9Qq3"
PEM_BODY = "MIIEpAIBAAKCAQEA" + "x7kq9Zt3" * 5


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _pem(kind: str) -> str:
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{PEM_BODY}\nq{PEM_BODY}\n-----END {kind}PRIVATE KEY-----"


# Name -> (text, what must not appear in a record)
PLANTED: dict[str, tuple[str, str]] = {
    # --- private keys ---
    "pem": (f'KEY = """{_pem("RSA ")}"""', PEM_BODY),
    "pem without type": (_pem(""), PEM_BODY),
    "openssh": (_pem("OPENSSH "), PEM_BODY),
    "pem with escapes": (json.dumps({"private_key": _pem("")}), PEM_BODY[:16]),
    "pem in base64": (f'data = "{_b64(_pem("EC "))}"', _b64(_pem("EC "))[20:60]),
    "age": ("AGE-SECRET-KEY-1" + "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L" * 2, "QPZRY9X8GF2TVDW0S3JN54KHCE"),
    # --- tokens of services ---
    "aws id": ("client('s3', 'AKIA" + "IOSFODNN7EXAMPLE')", "IOSFODNN7"),
    "aws secret": (f"aws_secret_access_key = '{RANDOM}'", RANDOM),
    "aws session": ("ASIA" + "Y34FZKBOKMUTVV7A", "Y34FZKBOK"),
    "github": ("x = 'ghp_" + "aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xY5'", "aB3dE5fG7"),
    "github fine": ("github_pat_" + "11ABCDEFG0abcdefghijkl_" + "Z9" * 20, "11ABCDEFG0"),
    "gitlab": ("glpat-" + "ABCdef123_456-ghiJKL", "ABCdef123"),
    "slack": ("xoxb-" + "123456789012-abcdefGHIJKL", "123456789012-abc"),
    "slack hook": ("https://hooks.slack.com/services/" + "T000/B000/XXyyZZ12", "XXyyZZ12"),
    "hugging face": ("login('hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz012345')", "AbCdEfGhIj"),
    "openai": ("sk-proj-" + "abcdEFGH1234ijklMNOP5678", "abcdEFGH1234"),
    "anthropic": ("sk-ant-" + "api03-abcdEFGH1234ijklMNOP5678", "abcdEFGH1234"),
    "google": ("AIza" + "SyD4-abcdefghijklmnopqrstuvwx12345", "SyD4-abcdef"),
    "stripe": ("sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc", "4eC39HqLy"),
    "sendgrid": ("SG." + "abcdefghijklmnopqrstuv.ABCDEFGHIJKLMNOPQRSTUVWXYZ012345", "abcdefghijklmnop"),
    "npm": ("npm_" + "abcdefghijklmnopqrstuvwxyz0123456789", "abcdefghijklmnop"),
    "pypi": ("pypi-AgEIcHlwaS5vcmc" + "CJDAwMDAwMDAwLTAwMDAtMDAwMC0wMDAwLTAwMDAwMDAwMDAwMA", "CJDAwMDAwMDAw"),
    "jwt": ("eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N", "eyJzdWIiOiIx"),
    "digitalocean": ("dop_v1_" + "0a1b2c3d" * 8, "0a1b2c3d"),
    "databricks": ("dapi" + "0123456789abcdef" * 2, "0123456789abcdef"),
    "vault": ("hvs." + "CAESIJ1234567890abcdefGHIJ", "CAESIJ12345"),
    "azure": ("DefaultEndpointsProtocol=https;AccountName=a;AccountKey=" + "Ab12" * 20 + "==", "Ab12Ab12"),
    "telegram": ("123456789:AA" + "Hn3bUjDlYzWcXaEoPqRsTuVwXyZ012345", "Hn3bUjDlYz"),
    "wandb": ("WANDB_API_KEY = '" + "0a1b2c3d4e" * 4 + "'", "0a1b2c3d4e"),
    # --- passwords in code and configuration ---
    "python": (f'DB_PASSWORD = "{PASSWORD}"', PASSWORD),
    "python words": (f"password = '{WORDS}'", WORDS),
    "short password": ('password = "hunter2"', "hunter2"),
    "annotated": (f"password: str = '{WORDS}'", WORDS),
    "keyword argument": (f"connect(host='h', password='{PASSWORD}')", PASSWORD),
    "dict": (f"{{'user': 'me', 'passwd': '{PASSWORD}'}}", PASSWORD),
    "json": (json.dumps({"apiKey": WORDS}), WORDS),
    "json over two lines": (f'{{"client_secret":\n   "{WORDS}"}}', WORDS),
    "yaml": (f"db:\n  password: {PASSWORD}\n", PASSWORD),
    "yaml block": (f"password: |\n  {PASSWORD}\n", PASSWORD),
    "toml": (f'[a]\nsecret_key = "{WORDS}"', WORDS),
    "ini": (f"[db]\npwd={PASSWORD}", PASSWORD),
    "xml": (f"<password>{PASSWORD}</password>", PASSWORD),
    "shell": (f"export MY_SECRET={PASSWORD}", PASSWORD),
    "shell quoted": (f"export API_TOKEN='{PASSWORD}'", PASSWORD),
    "environ": (f'os.environ["AWS_SECRET_ACCESS_KEY"] = "{RANDOM}"', RANDOM),
    "setdefault": (f'os.environ.setdefault("MLFLOW_TRACKING_PASSWORD", "{PASSWORD}")', PASSWORD),
    "getenv default": (f'os.getenv("DB_PASSWORD", "{PASSWORD}")', PASSWORD),
    "option": (f"run --api-token {PASSWORD}", PASSWORD),
    "option list": (f'["run", "--password", "{PASSWORD}"]', PASSWORD),
    "tfvars": (f'db_password = "{PASSWORD}"', PASSWORD),
    "triple quotes": (f'SECRET = """\n{PASSWORD}\n"""', PASSWORD),
    "implicit join": (f'API_KEY = ("{RANDOM[:15]}"\n           "{RANDOM[15:]}")', RANDOM[:15]),
    "joined by plus": (f'API_KEY = "{RANDOM[:10]}" + "{RANDOM[10:]}"', RANDOM[10:]),
    "random string": (f'x = ["{RANDOM}"]', RANDOM),
    # --- URLs and headers ---
    "url": (f"u = 'postgresql://me:{WORDS}@db/x'", WORDS),
    "url with slash": ("mysql://me:pa/ss" + "w0rd@db", "pa/ss"),
    "token in url": ("https://" + "Zq8Tn2Lx7Vb4Kd9Wm3Rc@github.com/a/b.git", "Zq8Tn2Lx7"),
    "query": ("https://h/x?access_token=" + "Zq8Tn2Lx7Vb4Kd9W", "Zq8Tn2Lx7"),
    "bearer": ("headers = {'Authorization': 'Bearer " + "abc123def456ghi789'}", "abc123def456"),
    "basic": ("Authorization: Basic " + _b64("me:" + PASSWORD), _b64("me:" + PASSWORD)),
    "curl": (f"curl -u me:{PASSWORD} https://h", PASSWORD),
    "mysql": (f"mysql -u root -p{PASSWORD} db", PASSWORD),
    # --- files of logins ---
    ".netrc": (f"machine github.com login me password {WORDS}", WORDS),
    ".pgpass": (f"db.example.org:5432:app:me:{WORDS}", WORDS),
    ".npmrc": ("//registry.npmjs.org/:_authToken=" + "abcdef-123456", "abcdef-123456"),
    "docker config": (json.dumps({"auths": {"r": {"auth": _b64("me:" + WORDS)}}}), _b64("me:" + WORDS)),
    "kubeconfig": (f"    client-key-data: {_b64(PEM_BODY)}", _b64(PEM_BODY)),
    "htpasswd": ("me:$2y$10$" + "abcdefghijklmnopqrstuv1234567890", "abcdefghijklm"),
    # --- encoded ---
    "base64 of an assignment": (f'blob = "{_b64("password=" + PASSWORD)}"', _b64("password=" + PASSWORD)),
    "quoted url": (f"x = 'http%3A%2F%2Fme%3A{quote(PASSWORD)}%40h%2F'", quote(PASSWORD)),
    "hexadecimal escapes": (
        "token = '" + "".join(f"\\x{ord(c):02x}" for c in "ghp_" + "aB3dE5fG7hI9jK1lM3nO5") + "'",
        "\\x67",
    ),
}

# Code that only mentions secrets, which must be recorded: a file that is left out cannot be reproduced.
HARMLESS = (
    'password = os.environ["DB_PASSWORD"]',
    "token: str | None = None",
    "password = settings.password",
    'def login(user: str, password: str = "") -> None: ...',
    'KEY = "content_sha256"',
    'tokenizer = Tokenizer(pad_token="[PAD]", unk_token="<unk>")',
    "max_tokens = 4096",
    'TOKEN_URL = "https://example.org/oauth/token"',
    'WEIGHTS = {"resnet18": "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec"}',
    'url = f"https://{user}:{password}@{host}/"',
    'api_key = "your-api-key-here"',
    "api_key=${API_KEY}",
    "SECRET = '***'",
    "keys = sorted(config.keys())",
    "for key, value in items: print(key, value)",
    "self.key = key_of(image, 32)",
    "# The secret of a good augmentation is that masks use nearest neighbour.",
    'parser.add_argument("--token", help="token of the server")',
    'if name in ("password", "secret", "token"):',
    "loss = F.cross_entropy(logits, labels, ignore_index=255)",
    "from torchvision.models.segmentation import deeplabv3_resnet50 as DeepLabV3ResNet50",
    "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
    "git@github.com:owner/repository.git",
    "lakefs://repository/0123456789abcdef/data/images/",
)
