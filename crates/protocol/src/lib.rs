//! 3FS message structs, service and method numbers, status codes and layout arithmetic
