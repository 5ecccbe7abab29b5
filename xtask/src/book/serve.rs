//! A small server for reading the book while writing it. Listens on this machine only.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::page::escape;

/// Longest request line that is read.
const MAX_REQUEST: u64 = 8 * 1024;

/// Serves the files of `folder` until the program is stopped; `rebuild` runs before every page.
pub fn serve(port: u16, folder: &Path, rebuild: impl Fn() -> Result<PathBuf>) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .with_context(|| format!("cannot listen on port {port}; --port chooses another"))?;
    println!("serving at http://{}/ until Ctrl-C", listener.local_addr()?);
    for stream in listener.incoming() {
        // A reader who goes away, or sends nothing, is no reason to stop.
        let _ = stream.and_then(|stream| answer(stream, folder, &rebuild));
    }
    Ok(())
}

fn answer(mut stream: TcpStream, folder: &Path, rebuild: impl Fn() -> Result<PathBuf>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut request = String::new();
    BufReader::new((&stream).take(MAX_REQUEST)).read_line(&mut request)?;
    let (status, kind, body) = respond(&request, folder, rebuild);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)
}

/// Status, content type and body for the first line of a request.
fn respond(
    request: &str,
    folder: &Path,
    rebuild: impl Fn() -> Result<PathBuf>,
) -> (&'static str, &'static str, Vec<u8>) {
    const TEXT: &str = "text/plain; charset=utf-8";
    let missing = || ("404 Not Found", TEXT, b"no such page\n".to_vec());
    let Some(path) = request.strip_prefix("GET /").and_then(|rest| rest.split([' ', '?', '#']).next()) else {
        return ("405 Method Not Allowed", TEXT, b"only GET\n".to_vec());
    };
    let path = Path::new(if path.is_empty() { "index.html" } else { path });
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return missing();
    }
    let kind = match path.extension().and_then(|extension| extension.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        _ => "application/octet-stream",
    };
    if path.extension().is_some_and(|extension| extension == "html")
        && let Err(error) = rebuild()
    {
        let message = format!("<!doctype html><pre>{}</pre>", escape(&format!("{error:#}")));
        return ("500 Internal Server Error", "text/html; charset=utf-8", message.into_bytes());
    }
    fs::read(folder.join(path)).map_or_else(|_| missing(), |body| ("200 OK", kind, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{Scratch, write};

    #[test]
    fn serves_pages_and_nothing_outside_of_the_book() -> Result<()> {
        let scratch = Scratch::new("serve");
        let book = scratch.0.join("book");
        write(&book.join("index.html"), b"<p>hello")?;
        write(&book.join("style.css"), b"p {}")?;
        write(&scratch.0.join("secret.html"), b"no")?;
        let ask = |request: &str| respond(request, &book, || Ok(book.clone()));

        assert_eq!(ask("GET / HTTP/1.1\r\n"), ("200 OK", "text/html; charset=utf-8", b"<p>hello".to_vec()));
        assert_eq!(ask("GET /style.css?1 HTTP/1.1\r\n").1, "text/css");
        for path in ["/../secret.html", "//etc/passwd", "/none.html"] {
            assert_eq!(ask(&format!("GET {path} HTTP/1.1\r\n")).0, "404 Not Found", "{path}");
        }
        assert_eq!(ask("POST / HTTP/1.1\r\n").0, "405 Method Not Allowed");
        let broken = respond("GET /index.html HTTP/1.1", &book, || anyhow::bail!("1 broken link <here>"));
        assert_eq!(broken.0, "500 Internal Server Error");
        assert!(String::from_utf8_lossy(&broken.2).contains("&lt;here&gt;"));
        Ok(())
    }

    #[test]
    fn answers_over_a_real_connection() -> Result<()> {
        let scratch = Scratch::new("connection");
        write(&scratch.0.join("index.html"), b"<p>hello")?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        client.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
        answer(listener.accept()?.0, &scratch.0, || Ok(scratch.0.clone()))?;
        let mut reply = String::new();
        client.read_to_string(&mut reply)?;
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n") && reply.ends_with("\r\n\r\n<p>hello"), "{reply}");
        Ok(())
    }
}
