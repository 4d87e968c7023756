"""How the clients of lakeFS, object storage and MLflow reach their servers: certificates and proxies."""
