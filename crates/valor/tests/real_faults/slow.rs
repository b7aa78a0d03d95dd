//! A slow network without `tc netem`: a proxy on the host that holds back whatever comes and goes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

/// Port of the proxy.
pub const PORT: u16 = 7999;
/// What it says once it listens.
pub const READY: &str = "proxy is ready";
/// Environment of its process: where the server is, and the delay in milliseconds.
pub const SERVER: &str = "VALOR_FAULTS_SERVER";
pub const DELAY: &str = "VALOR_FAULTS_DELAY";

/// Bytes passed on at once.
const PIECE: usize = 64 << 10;

/// The proxy's process: works until its input ends. Does nothing unless it was started as one.
pub fn proxy_if_asked() {
    let (Ok(server), Ok(delay)) = (std::env::var(SERVER), std::env::var(DELAY)) else { return };
    let delay = Duration::from_millis(delay.parse().expect("milliseconds"));
    let listener = TcpListener::bind(("0.0.0.0", PORT)).expect("listen");
    println!("\n{READY}");
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = server.clone();
            std::thread::spawn(move || carry(client, &server, delay));
        }
    });
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    std::process::exit(0);
}

fn carry(client: TcpStream, server: &str, delay: Duration) {
    // A server that is not there answers as it would itself: the connection ends.
    let Ok(server) = TcpStream::connect(server) else { return };
    let (Ok(from), Ok(to)) = (client.try_clone(), server.try_clone()) else { return };
    std::thread::spawn(move || pass_on(from, to, delay));
    pass_on(server, client, delay);
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let mut piece = vec![0; PIECE];
    while let Ok(length) = from.read(&mut piece) {
        std::thread::sleep(delay);
        if length == 0 || to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
