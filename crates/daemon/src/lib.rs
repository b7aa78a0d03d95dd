//! What every server process needs: identity, live configuration, logs, metrics, signals, Core service
