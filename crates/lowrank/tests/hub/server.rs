//! A Hub on loopback: what `hf-hub` asks of the real one, and a record of what was asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// How the server behaves, beside serving files.
#[derive(Default, Clone)]
pub struct Manners {
    /// The token that is needed.
    pub token: Option<&'static str>,
    /// Whether it lists a repository's files.
    pub hides_listing: bool,
    /// Whether large files are elsewhere, as the Hub's are.
    pub redirects: bool,
    /// How many bodies break off in the middle before they are served whole.
    pub breaks: usize,
    /// Whether it falls silent in the middle of bodies, and keeps the connections.
    pub stalls: bool,
    /// Whether it takes requests and answers none.
    pub silent: bool,
    /// Answers every request with this code.
    pub answers: Option<u16>,
    /// Answers requests for this file with this code.
    pub refuses: Option<(&'static str, u16)>,
}

struct State {
    id: &'static str,
    commit: String,
    files: BTreeMap<String, Vec<u8>>,
    manners: Manners,
    requests: Vec<String>,
    /// Connections on which nothing more is said.
    held: Vec<TcpStream>,
}

pub struct Server {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    /// Serves these files as the repository `id` until the test ends.
    pub fn start(id: &'static str, files: &[(&str, &[u8])], manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        let commit = "c0ffee00".to_owned();
        let state = Arc::new(Mutex::new(State {
            id,
            commit,
            files,
            manners,
            requests: Vec::new(),
            held: Vec::new(),
        }));
        let served = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = answer(stream.unwrap(), &served);
            }
        });
        Self { endpoint, state }
    }

    /// The requests since the last time: method, path, token and range.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }

    /// Behaves like this from now on, and closes the connections on which it fell silent.
    pub fn behave(&self, manners: Manners) {
        let mut state = self.state.lock().unwrap();
        state.manners = manners;
        state.held.clear();
    }

    /// A new commit with this file changed.
    pub fn commit(&self, commit: &str, file: &str, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        commit.clone_into(&mut state.commit);
        state.files.insert(file.to_owned(), bytes.to_vec());
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let (mut token, mut range) = (None, None);
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').unwrap();
        match name.to_lowercase().as_str() {
            "authorization" => token = Some(value.trim().to_owned()),
            "range" => range = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let mut state = state.lock().unwrap();
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let shown = [token.as_deref(), range.as_deref()].into_iter().flatten();
    state.requests.push([method, path].into_iter().chain(shown).collect::<Vec<_>>().join(" "));
    let needed = state.manners.token.map(|token| format!("Bearer {token}"));
    if state.manners.silent {
        state.held.push(stream);
        return Ok(());
    }
    if let Some(code) = state.manners.answers {
        return head(&mut stream, code, &[], 0);
    }
    if needed.is_some() && needed != token {
        return head(&mut stream, 401, &[], 0);
    }
    // A data set's id is served as `datasets/OWNER/NAME`.
    let kind = if state.id.starts_with("datasets/") { "" } else { "models/" };
    let listing = format!("/api/{kind}{}/revision/main", state.id);
    let resolve = format!("/{}/resolve/main/", state.id);
    if path == listing && !state.manners.hides_listing {
        let names: Vec<String> =
            state.files.keys().map(|name| format!("{{\"rfilename\":{name:?}}}")).collect();
        let body = format!("{{\"sha\":{:?},\"siblings\":[{}]}}", state.commit, names.join(","));
        head(&mut stream, 200, &[], body.len())?;
        return stream.write_all(body.as_bytes());
    }
    let elsewhere = path.strip_prefix("/elsewhere/");
    let name = path.strip_prefix(&resolve).or(elsewhere).unwrap_or_default();
    if let Some((_, code)) = state.manners.refuses.filter(|(file, _)| *file == name) {
        return head(&mut stream, code, &[], 0);
    }
    let Some(bytes) = state.files.get(name).cloned() else { return head(&mut stream, 404, &[], 0) };
    let etag = format!(
        "\"{:x}-{}\"",
        bytes.iter().fold(7u64, |sum, &b| sum.wrapping_mul(31) + u64::from(b)),
        bytes.len()
    );
    let mut headers = vec![("ETag", etag.clone()), ("X-Repo-Commit", state.commit.clone())];
    if state.manners.redirects && elsewhere.is_none() && name.ends_with(".safetensors") {
        headers.push(("X-Linked-Etag", etag));
        headers.push(("Location", format!("http://{}/elsewhere/{name}", stream.local_addr()?)));
        return head(&mut stream, 302, &headers, 0);
    }
    let (mut start, mut end) = (0, bytes.len());
    if let Some((first, last)) =
        range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.split_once('-'))
    {
        start = first.parse().unwrap();
        end = last.parse::<usize>().map_or(end, |last| end.min(last + 1));
        if start >= bytes.len() {
            return head(&mut stream, 416, &[], 0);
        }
        headers.push(("Content-Range", format!("bytes {start}-{}/{}", end - 1, bytes.len())));
    }
    head(&mut stream, if range.is_some() { 206 } else { 200 }, &headers, end - start)?;
    if end - start > 100 && state.manners.breaks > 0 {
        state.manners.breaks -= 1;
        end = start + (end - start) / 2;
    }
    if end - start > 100 && state.manners.stalls {
        stream.write_all(&bytes[start..start + (end - start) / 2])?;
        state.held.push(stream);
        return Ok(());
    }
    stream.write_all(&bytes[start..end])
}

fn head(stream: &mut TcpStream, code: u16, headers: &[(&str, String)], length: usize) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {code} Answer\r\nContent-Length: {length}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    stream.write_all((text + "\r\n").as_bytes())
}
