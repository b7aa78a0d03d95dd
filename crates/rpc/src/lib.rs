//! RPC connections, request matching, deadlines and dispatch over TCP and UNIX sockets
