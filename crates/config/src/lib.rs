//! TOML configuration trees with 3FS's partial and hot update rules
