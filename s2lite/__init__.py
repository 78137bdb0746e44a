"""A self-hosted server for the S2 API: durable streams on object storage or a local directory."""

__version__ = "0.1.0"
