//! Where CometBFT finds the application: a private unix socket, or TCP on the loopback interface.
//!
//! ABCI knows no authentication, and whoever reaches the socket can call `Commit`: so nothing else is accepted.

use std::fmt;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The kernel takes 107 bytes; the rest is for the name under which a socket is made (see [`Listener::bind`]).
const MAX_PATH: usize = 100;

/// `unix:///absolute/path` or `tcp://127.0.0.1:26658`, as in CometBFT's `proxy_app`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("ABCI address {0:?}: expected unix:///absolute/path or tcp://LOOPBACK_IP:PORT")]
    Form(String),
    #[error("ABCI address {0:?}: the socket's path must be shorter than {MAX_PATH} bytes")]
    PathTooLong(String),
    #[error("ABCI address {0:?}: not a loopback address, and ABCI has no authentication")]
    NotLoopback(String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(s: &str) -> Result<Self, AddressError> {
        if let Some(path) = s.strip_prefix("unix://") {
            if !path.starts_with('/') || path.ends_with('/') {
                return Err(AddressError::Form(s.to_owned()));
            }
            if path.len() >= MAX_PATH {
                return Err(AddressError::PathTooLong(s.to_owned()));
            }
            return Ok(Self::Unix(path.into()));
        }
        let tcp: Option<SocketAddr> = s.strip_prefix("tcp://").and_then(|a| a.parse().ok());
        match tcp {
            Some(addr) if addr.ip().is_loopback() => Ok(Self::Tcp(addr)),
            Some(_) => Err(AddressError::NotLoopback(s.to_owned())),
            None => Err(AddressError::Form(s.to_owned())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(addr) => write!(f, "tcp://{addr}"),
        }
    }
}

/// A bound address. A socket file goes when the listener is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: Address,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// Binds `address`; port 0 picks a free one. A socket file that a dead process left is replaced; that of a living one
    /// is an error, as is any other kind of file.
    pub fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Unix(path) => {
                Ok(Self { socket: Socket::Unix(bind_private(path)?), address: address.clone() })
            }
            Address::Tcp(addr) => {
                let listener = TcpListener::bind(addr)?;
                let address = Address::Tcp(listener.local_addr()?);
                Ok(Self { socket: Socket::Tcp(listener), address })
            }
        }
    }

    /// Where it listens, with the port that was picked.
    pub fn address(&self) -> &Address {
        &self.address
    }

    pub(super) fn accept(&self) -> io::Result<Stream> {
        match &self.socket {
            Socket::Unix(listener) => Ok(Stream::Unix(listener.accept()?.0)),
            Socket::Tcp(listener) => {
                let stream = listener.accept()?.0;
                stream.set_nodelay(true)?; // else Nagle against delayed ACK: 44 ms a call
                Ok(Stream::Tcp(stream))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Address::Unix(path) = &self.address {
            let _ = fs::remove_file(path); // a file that stays is replaced by the next bind
        }
    }
}

/// Makes the socket inside a directory that only we can enter and moves it to `path` once its mode is 0600: at no moment
/// can another user connect, and the move replaces a stale file in one step.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(m) if !m.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("{} exists and is not a socket", path.display()),
            ));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("another process listens on {}", path.display()),
            ));
        }
        _ => {}
    }
    let mut dir = path.as_os_str().to_owned();
    dir.push(".d");
    let dir = PathBuf::from(dir);
    let inside = dir.join("s");
    let clean = || fs::remove_file(&inside).and_then(|()| fs::remove_dir(&dir));
    let _ = clean().or_else(|_| fs::remove_dir(&dir)); // left by a crash
    DirBuilder::new().mode(0o700).create(&dir)?;
    let bound = UnixListener::bind(&inside).and_then(|listener| {
        fs::set_permissions(&inside, Permissions::from_mode(0o600))?;
        fs::rename(&inside, path)?;
        Ok(listener)
    });
    let _ = fs::remove_file(&inside);
    fs::remove_dir(&dir)?;
    bound
}

/// One connection.
#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    /// Connects to a listener, as CometBFT does.
    pub(super) fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Unix(path) => UnixStream::connect(path).map(Self::Unix),
            Address::Tcp(addr) => TcpStream::connect(addr).map(Self::Tcp),
        }
    }

    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Unix(s) => s.shutdown(how),
            Self::Tcp(s) => s.shutdown(how),
        }
    }
}

impl Read for &Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => (&*s).read(buf),
            Stream::Tcp(s) => (&*s).read(buf),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => (&*s).write(buf),
            Stream::Tcp(s) => (&*s).write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_private_addresses_are_accepted() {
        for good in ["unix:///run/deepnode/abci.sock", "tcp://127.0.0.1:26658", "tcp://[::1]:0"] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        for open in ["tcp://0.0.0.0:26658", "tcp://192.168.1.4:26658", "tcp://[::]:1"] {
            assert!(matches!(open.parse::<Address>(), Err(AddressError::NotLoopback(_))), "{open}");
        }
        for bad in
            ["", "127.0.0.1:1", "tcp://localhost", "http://127.0.0.1:1", "unix://rel.sock", "unix:///dir/"]
        {
            assert!(matches!(bad.parse::<Address>(), Err(AddressError::Form(_))), "{bad}");
        }
        let path = |n: usize| format!("unix:///{}", "a".repeat(n - 1));
        assert!(path(99).parse::<Address>().is_ok());
        assert!(matches!(path(100).parse::<Address>(), Err(AddressError::PathTooLong(_))));
    }

    #[test]
    fn a_socket_is_private_replaces_a_dead_one_and_spares_a_living_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut name = dir.path().join("s").into_os_string().into_string().unwrap();
        name.push_str(&"x".repeat(99 - name.len())); // the longest path allowed
        let path = PathBuf::from(name);
        let address = Address::Unix(path.clone());

        drop(UnixListener::bind(&path).unwrap()); // what a killed process leaves
        let listener = Listener::bind(&address).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let client = Stream::connect(&address).unwrap();
        (&client).write_all(b"x").unwrap();
        let mut byte = [0];
        (&listener.accept().unwrap()).read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");

        assert_eq!(Listener::bind(&address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing stays behind");

        fs::write(&path, "precious").unwrap();
        assert_eq!(Listener::bind(&address).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
