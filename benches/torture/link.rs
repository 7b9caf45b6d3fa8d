//! A connection to the server that can be bad: frozen, cut on one side or on both, or cut right behind a COMMIT.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What every chunk's mark has in its text.
const MARK: &[u8] = b"set state = 'done', rows_done";

/// A TCP port in front of a server's socket; its threads end with the connections.
pub struct Link {
    pub port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// COMMITs of chunks that are still to lose their answer.
    cuts: AtomicU32,
    is_frozen: AtomicBool,
    is_slow: AtomicBool,
    /// The clients' sides of all connections, and the server's.
    open: Mutex<Vec<(TcpStream, UnixStream)>>,
    /// Server sides whose client is gone, held open.
    orphans: Mutex<Vec<UnixStream>>,
}

impl Link {
    pub fn start(directory: &Path) -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("the port's number").port();
        let (socket, shared) = (directory.join(".s.PGSQL.5432"), Arc::<Shared>::default());
        let link = Link { port, shared: shared.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (socket, shared) = (socket.clone(), shared.clone());
                std::thread::spawn(move || forward(client, &socket, &shared));
            }
        });
        link
    }

    /// The next so many COMMITs of chunks reach the server, and their connection is cut before the answer.
    pub fn cut_commits(&self, cuts: u32) {
        self.shared.cuts.store(cuts, Ordering::SeqCst);
    }

    /// Nothing gets through for a while.
    pub fn freeze(&self, pause: Duration) {
        self.shared.is_frozen.store(true, Ordering::SeqCst);
        std::thread::sleep(pause);
        self.shared.is_frozen.store(false, Ordering::SeqCst);
    }

    /// Whatever is sent arrives late for a while.
    pub fn delay(&self, pause: Duration) {
        self.shared.is_slow.store(true, Ordering::SeqCst);
        std::thread::sleep(pause);
        self.shared.is_slow.store(false, Ordering::SeqCst);
    }

    /// Cuts all connections, for both sides to see.
    pub fn sever(&self) {
        for (client, server) in self.take() {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
    }

    /// Cuts all connections for the client alone: the server waits for it, in the middle of whatever it was told, for a while.
    pub fn orphan(&self, pause: Duration) {
        for (client, server) in self.take() {
            self.shared.orphans.lock().expect("a list").extend(server.try_clone());
            let _ = client.shutdown(Shutdown::Both);
        }
        std::thread::sleep(pause);
        for server in self.shared.orphans.lock().expect("a list").drain(..) {
            let _ = server.shutdown(Shutdown::Both);
        }
    }

    fn take(&self) -> Vec<(TcpStream, UnixStream)> {
        std::mem::take(&mut self.shared.open.lock().expect("a list"))
    }
}

fn forward(client: TcpStream, socket: &PathBuf, shared: &Shared) {
    let Ok(server) = UnixStream::connect(socket) else { return };
    let (Ok(mut to_client), Ok(mut from_server)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    if let (Ok(client), Ok(server)) = (client.try_clone(), server.try_clone()) {
        shared.open.lock().expect("a list").push((client, server));
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 65536];
            while let Ok(read @ 1..) = from_server.read(&mut buffer) {
                thaw(shared);
                if to_client.write_all(&buffer[..read]).is_err() {
                    break;
                }
            }
            let _ = to_client.shutdown(Shutdown::Both);
        });
        requests(client, server, shared);
    });
}

fn requests(mut from_client: TcpStream, mut to_server: UnixStream, shared: &Shared) {
    let (mut buffer, mut has_settled) = ([0; 65536], false);
    while let Ok(read @ 1..) = from_client.read(&mut buffer) {
        thaw(shared);
        let bytes = &buffer[..read];
        let holds = |word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
        has_settled |= holds(MARK);
        let is_commit = holds(b"COMMIT\0");
        let take = |cuts: u32| cuts.checked_sub(1);
        let is_cut = is_commit
            && has_settled
            && shared.cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok();
        if is_cut {
            // The client's side goes first, so that no answer can slip through.
            let _ = from_client.shutdown(Shutdown::Both);
        }
        if to_server.write_all(bytes).is_err() || is_cut {
            break;
        }
        has_settled &= !is_commit;
    }
    while !shared.orphans.lock().expect("a list").is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = to_server.shutdown(Shutdown::Write);
}

/// How late something is.
const LATE: Duration = Duration::from_millis(40);

fn thaw(shared: &Shared) {
    if shared.is_slow.load(Ordering::SeqCst) {
        std::thread::sleep(LATE);
    }
    while shared.is_frozen.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(5));
    }
}
