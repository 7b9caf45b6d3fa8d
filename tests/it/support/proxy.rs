//! A TCP proxy in front of a server's socket that can swallow the answer to a COMMIT.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A proxy on a port of its own; its threads end with the connections.
pub struct Proxy {
    pub port: u16,
    cuts: Arc<AtomicU32>,
}

impl Proxy {
    /// Forwards to the server whose socket is in `directory`. The first `cuts` COMMITs of chunks are
    /// forwarded, and then the connection is cut before the answer.
    pub fn start(directory: &Path, cuts: u32) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let left = Arc::new(AtomicU32::new(cuts));
        let socket = directory.join(".s.PGSQL.5432");
        let needle = "set state = 'done', rows_done".to_owned();
        let shared = left.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (socket, needle, left) = (socket.clone(), needle.clone(), shared.clone());
                std::thread::spawn(move || forward(client, &socket, &needle, &left));
            }
        });
        Proxy { port, cuts: left }
    }

    /// How many cuts are still to be made.
    pub fn cuts_left(&self) -> u32 {
        self.cuts.load(Ordering::SeqCst)
    }
}

fn forward(client: TcpStream, socket: &PathBuf, needle: &str, cuts: &AtomicU32) {
    let Ok(server) = UnixStream::connect(socket) else { return };
    let (mut from_server, mut to_client) =
        (server.try_clone().unwrap(), client.try_clone().unwrap());
    let answers = std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
    });
    let (mut from_client, mut to_server) = (client, server);
    let mut buffer = [0; 65536];
    let mut has_settled = false;
    while let Ok(read @ 1..) = from_client.read(&mut buffer) {
        let bytes = &buffer[..read];
        let holds = |word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
        has_settled |= holds(needle.as_bytes());
        let is_commit = holds(b"COMMIT\0");
        let is_cut = is_commit
            && has_settled
            && cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if is_cut {
            // The client's side goes first, so that no answer can slip through.
            let _ = from_client.shutdown(Shutdown::Both);
        }
        if to_server.write_all(bytes).is_err() || is_cut {
            break;
        }
        has_settled &= !is_commit;
    }
    let _ = to_server.shutdown(Shutdown::Write);
    let _ = answers.join();
}
