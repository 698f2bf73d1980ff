//! Bytes in, bytes out: listeners, limits, TLS, routes, the pipeline, health, metrics. Knows no cryptoki and no SQL.
