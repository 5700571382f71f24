//! Both ends of the control socket, and clients and servers that do not keep to it.

mod insight;

use crate::{ConnectError, ControlServer, Door, SocketCache};
use netbuild_core::{
    cache::{Cache, CacheError, Content, Fetched, FetchedAll, Hit, NewRecord, Source},
    digest::Digest,
    key::ActionKey,
    moved::{Coding, Moved, Movement, Progress, Resumed, Watch},
    peer::PeerId,
};
use netbuild_proto::{
    control::{MAX_DATA, MAX_FETCH, Request, Response, Status, VERSION, write_content},
    record::SealedRecord,
};
use std::{
    collections::HashMap,
    io::{self, Read, Write as _},
    os::unix::{
        fs::{DirBuilderExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, mpsc},
    thread,
    time::Duration,
};
use tempfile::TempDir;

/// The key whose lookup panics.
const PANICS: ActionKey = ActionKey([1; 32]);
/// The key whose lookup waits until [`Shelf::release`].
const WAITS: ActionKey = ActionKey([2; 32]);
const MISSING: ActionKey = ActionKey([3; 32]);
/// Longer than anything takes, and shorter than the server would wait for a stalled client.
const PATIENCE: Duration = Duration::from_secs(20);

/// A door to blobs in memory.
#[derive(Debug, Default)]
struct Shelf {
    blobs: Mutex<HashMap<Digest, Vec<u8>>>,
    /// How many lookups wait; and whether they need not any more.
    waiting: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Shelf {
    fn wait_for(&self, waiting: usize) {
        drop(self.changed.wait_while(self.waiting.lock().unwrap(), |(now, _)| *now < waiting));
    }

    fn release(&self) {
        self.waiting.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

impl Cache for Shelf {
    fn lookup(&self, _: &ActionKey, _: &dyn Watch) -> Result<Option<Hit>, CacheError> {
        Ok(None)
    }

    /// Says of what is here that it moved.
    fn fetch_all(&self, blobs: &[Digest], watch: &dyn Watch) -> Result<FetchedAll, CacheError> {
        if blobs.contains(&Digest::of(b"")) {
            return Err(CacheError::Failed("no reason".into()));
        }
        let shelf = self.blobs.lock().unwrap();
        let (here, missing): (Vec<_>, Vec<_>) =
            blobs.iter().copied().partition(|blob| shelf.contains_key(blob));
        let mut fetched =
            Fetched { source: Source::Disk, movement: Movement::default(), seconds: 0.25 };
        for blob in here {
            fetched.source = far();
            let moved = Moved { logical: blob.size, wire: blob.size / 2 };
            fetched.movement.add(&far(), Coding::Zstd, moved);
            watch.moving(&so_far(fetched.movement.total().logical));
        }
        Ok(FetchedAll { missing, fetched })
    }

    fn open(&self, blob: &Digest) -> Result<Option<Box<dyn Read + Send>>, CacheError> {
        let bytes = self.blobs.lock().unwrap().get(blob).cloned();
        Ok(bytes.map(|bytes| Box::new(io::Cursor::new(bytes)) as Box<dyn Read + Send>))
    }

    fn put_blob(&self, blob: &Digest, content: Content<'_>) -> Result<(), CacheError> {
        let Content::Reader(reader) = content else { panic!("the server has only readers") };
        if blob.size == 0 {
            // A store that has a blob does not read it again.
            return Ok(());
        }
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(|error| CacheError::Failed(error.to_string()))?;
        self.blobs.lock().unwrap().insert(*blob, bytes);
        Ok(())
    }

    fn put_record(&self, _: NewRecord) -> Result<(), CacheError> {
        Ok(())
    }

    fn flush(&self) -> Result<(), CacheError> {
        Ok(())
    }
}

impl Door for Shelf {
    fn lookup_sealed(
        &self,
        key: &ActionKey,
        watch: &dyn Watch,
    ) -> Result<Option<(SealedRecord, Hit)>, CacheError> {
        assert_ne!(*key, PANICS, "as asked");
        if *key == WAITS {
            let mut waiting = self.waiting.lock().unwrap();
            waiting.0 += 1;
            self.changed.notify_all();
            watch.moving(&so_far(7));
            drop(self.changed.wait_while(waiting, |(_, released)| !*released).unwrap());
        }
        Ok(None)
    }

    fn status(&self) -> Status {
        Status { role: "test".into(), ..Status::default() }
    }
}

/// Where everything on the shelf is said to come from.
fn far() -> Source {
    Source::Peer { peer: PeerId([7; 32]), region: "us-east".into() }
}

fn so_far(done: u64) -> Progress {
    Progress {
        total: done + 1,
        done,
        wire: done / 2,
        per_second: 1e6,
        sources: vec![far()],
        coding: Some(Coding::Zstd),
        resumed: Some(Resumed { chunks_here: 60, chunks: 100 }),
    }
}

/// Keeps what it hears.
#[derive(Default)]
struct Heard(Mutex<Vec<Progress>>);

impl Watch for Heard {
    fn moving(&self, progress: &Progress) {
        self.0.lock().unwrap().push(progress.clone());
    }
}

struct Served {
    shelf: Arc<Shelf>,
    server: ControlServer,
    path: PathBuf,
    dir: TempDir,
}

fn serve() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let shelf = Arc::<Shelf>::default();
    let server = ControlServer::start(&path, Arc::<Shelf>::clone(&shelf), Arc::default()).unwrap();
    Served { shelf, server, path, dir }
}

impl Served {
    fn connect(&self) -> SocketCache {
        SocketCache::connect(&self.path).unwrap()
    }

    /// A client that says what it likes. It gives up in the end, and the test with it.
    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn greeted(&self) -> UnixStream {
        let mut stream = self.raw();
        Request::Hello { version: VERSION }.write(&mut stream).unwrap();
        assert_eq!(Response::read(&mut stream).unwrap(), Response::Welcome { version: VERSION });
        stream
    }
}

/// A server that does with its connections what the test says, in the order in which they come.
fn rogue(
    talks: impl IntoIterator<Item = fn(&mut UnixStream)> + Send + 'static,
) -> (PathBuf, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let talks: Vec<_> = talks.into_iter().collect();
    thread::spawn(move || {
        for talk in talks {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(matches!(Request::read(&mut stream), Ok(Some(Request::Hello { .. }))));
            talk(&mut stream);
        }
    });
    (path, dir)
}

fn welcome(stream: &mut UnixStream) {
    Response::Welcome { version: VERSION }.write(stream).unwrap();
}

/// Waits for the client to ask something, or to go away.
fn hear(stream: &mut UnixStream) -> Option<Request> {
    Request::read(stream).unwrap()
}

/// Content of several frames, with its digest.
fn content() -> (Vec<u8>, Digest) {
    let bytes: Vec<u8> = (0..MAX_DATA * 3 + 17).map(|index| (index / 251) as u8).collect();
    let digest = Digest::of(&bytes);
    (bytes, digest)
}

fn read(cache: &SocketCache, blob: &Digest) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    cache.open(blob).unwrap().expect("the blob is there").read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Does something that must end by itself.
fn ends<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(what()));
    receiver.recv_timeout(PATIENCE).expect("it ends by itself")
}

#[test]
fn what_is_put_from_memory_a_file_or_a_reader_can_be_opened() {
    let served = serve();
    let (cache, (bytes, digest)) = (served.connect(), content());
    let file = served.dir.path().join("file");
    std::fs::write(&file, &bytes).unwrap();
    let mut reader = bytes.as_slice();
    for content in [Content::Bytes(&bytes), Content::File(&file), Content::Reader(&mut reader)] {
        served.shelf.blobs.lock().unwrap().clear();
        assert!(cache.open(&digest).unwrap().is_none());
        cache.put_blob(&digest, content).unwrap();
        assert_eq!(read(&cache, &digest).unwrap(), bytes);
    }
    assert_eq!(cache.status().unwrap().role, "test");
    let nothing = Digest::of(b"");
    assert_eq!(cache.fetch(&nothing, &()), Err(CacheError::Failed("no reason".into())));
}

#[test]
fn whoever_fetches_hears_how_far_it_is_and_in_the_end_what_it_took() {
    let served = serve();
    let (cache, (bytes, digest), heard) = (served.connect(), content(), Heard::default());
    cache.put_blob(&digest, Content::Bytes(&bytes)).unwrap();
    let fetched = cache.fetch(&digest, &heard).unwrap().expect("it is there");
    assert_eq!((fetched.source, fetched.seconds), (far(), 0.25));
    let moved = Moved { logical: digest.size, wire: digest.size / 2 };
    assert_eq!(fetched.movement.codings, [(Coding::Zstd, moved)].into());
    assert_eq!(heard.0.into_inner().unwrap().last(), Some(&so_far(digest.size)));
}

#[test]
fn whoever_looks_up_hears_how_far_it_is() {
    let served = serve();
    let (cache, shelf, heard) = (served.connect(), Arc::clone(&served.shelf), Heard::default());
    thread::scope(|scope| {
        let (cache, heard) = (&cache, &heard);
        let asking = scope.spawn(move || cache.lookup(&WAITS, heard));
        // It is heard before the answer is there.
        while heard.0.lock().unwrap().is_empty() {
            thread::yield_now();
        }
        shelf.release();
        assert_eq!(asking.join().unwrap(), Ok(None));
    });
    assert_eq!(heard.0.into_inner().unwrap(), [so_far(7)]);
}

#[test]
fn of_many_blobs_fetched_at_once_those_that_are_missing_are_named() {
    let served = serve();
    let cache = served.connect();
    let blob = |number: u32| (number.to_le_bytes(), Digest::of(&number.to_le_bytes()));
    for number in (0..200).step_by(3) {
        let (bytes, digest) = blob(number);
        cache.put_blob(&digest, Content::Bytes(&bytes)).unwrap();
    }
    // More than one request may name.
    let all: Vec<Digest> = (0..MAX_FETCH as u32 + 10).map(|number| blob(number).1).collect();
    let fetched = cache.fetch_all(&all, &()).unwrap();
    let expected = (0..).zip(&all).filter(|(number, _)| *number >= 200 || number % 3 != 0);
    assert!(fetched.missing.iter().eq(expected.map(|(_, blob)| blob)));
    assert_eq!(fetched.fetched.movement.total().logical, 67 * 4);
    assert_eq!((fetched.fetched.source, fetched.fetched.seconds), (far(), 0.5));
    let none = cache.fetch_all(&[], &()).unwrap();
    assert_eq!((none.missing.len(), none.fetched.movement), (0, Movement::default()));
}

#[test]
fn an_agent_that_misses_what_nobody_asked_for_is_not_believed() {
    let (path, _dir) = rogue([(|stream| {
        welcome(stream);
        hear(stream);
        let (source, movement) = (Source::Disk, Movement::default());
        Response::Fetched { missing: vec![1], source, movement, seconds: 0.0 }
            .write(stream)
            .unwrap();
        hear(stream);
    }) as fn(&mut UnixStream)]);
    let cache = SocketCache::connect(&path).unwrap();
    let error = cache.fetch(&Digest::of(b"one"), &()).unwrap_err();
    assert!(matches!(&error, CacheError::Failed(why) if why.contains("nobody asked")), "{error}");
}

#[test]
fn content_that_the_cache_leaves_unread_is_not_taken_for_a_request() {
    let served = serve();
    let mut stream = served.greeted();
    let (bytes, _) = content();
    Request::PutBlob(Digest::of(b"")).write(&mut stream).unwrap();
    write_content(&mut stream, &mut bytes.as_slice()).unwrap().unwrap();
    assert_eq!(Response::read(&mut stream).unwrap(), Response::Done);
    Request::Lookup(MISSING).write(&mut stream).unwrap();
    assert_eq!(Response::read(&mut stream).unwrap(), Response::Missing);
}

#[test]
fn content_whose_reader_fails_is_an_error_and_the_connection_goes_on() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("bad sector"))
        }
    }
    let served = serve();
    let (cache, (_, digest)) = (served.connect(), content());
    let error = cache.put_blob(&digest, Content::Reader(&mut Failing)).unwrap_err();
    assert!(error.to_string().contains("bad sector"), "{error}");
    assert!(cache.open(&digest).unwrap().is_none());
}

#[test]
fn the_socket_replaces_what_a_killed_process_left_and_is_for_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    drop(UnixListener::bind(&path).unwrap());
    let half_made = path.with_extension("d");
    std::fs::DirBuilder::new().mode(0o700).create(&half_made).unwrap();
    drop(UnixListener::bind(half_made.join("s")).unwrap());
    assert!(matches!(SocketCache::connect(&path), Err(ConnectError::NobodyThere(_))));
    let server = ControlServer::start(&path, Arc::<Shelf>::default(), Arc::default()).unwrap();
    SocketCache::connect(&path).unwrap().status().unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!half_made.exists());
    drop(server);
    assert!(!path.exists());
}

#[test]
fn clients_that_make_no_sense_cost_others_nothing() {
    let served = serve();
    let (bytes, digest) = content();
    let mut request = Vec::new();
    Request::Lookup(MISSING).write(&mut request).unwrap();

    // Their connection is ended at once: garbage for a greeting, then for a request.
    let oversized = u32::MAX.to_le_bytes();
    for garbage in [&b"\x04\0\0\0junk"[..], &oversized, &request] {
        let mut stream = served.raw();
        stream.write_all(garbage).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    }
    for garbage in [&b"\x04\0\0\0\xff\xff\xff\xff"[..], &oversized] {
        let mut stream = served.greeted();
        stream.write_all(garbage).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    }
    // These stay: a silent one, half a frame, half of a content; and one goes in mid-content.
    let silent = [served.raw(), served.greeted()];
    let mut half = served.greeted();
    half.write_all(&request[..7]).unwrap();
    let mut stuck = served.greeted();
    let mut gone = served.greeted();
    for stream in [&mut stuck, &mut gone] {
        Request::PutBlob(digest).write(stream).unwrap();
        stream.write_all(&1000_u32.to_le_bytes()).unwrap();
        stream.write_all(&bytes[..10]).unwrap();
    }
    drop(gone);

    let cache = served.connect();
    assert_eq!(cache.lookup(&MISSING, &()), Ok(None));
    assert!(cache.open(&digest).unwrap().is_none(), "half a blob was kept");
    // And nobody holds up the end.
    ends(move || drop(served.server));
    drop((silent, half, stuck));
}

#[test]
fn a_client_that_does_not_read_its_answer_does_not_hold_up_the_end() {
    let served = serve();
    // More than any socket buffer takes.
    let bytes = vec![7; 32 << 20];
    let digest = Digest::of(&bytes);
    served.shelf.blobs.lock().unwrap().insert(digest, bytes);
    let mut stream = served.greeted();
    Request::Open(digest).write(&mut stream).unwrap();
    assert_eq!(Response::read(&mut stream).unwrap(), Response::Done);
    ends(move || drop(served.server));
}

#[test]
fn whoever_is_too_many_is_turned_away_until_others_leave() {
    let served = serve();
    let mut open = Vec::new();
    let refused = loop {
        match SocketCache::connect(&served.path) {
            Ok(cache) => open.push(cache),
            Err(error) => break error,
        }
        assert!(open.len() < 300);
    };
    // As if nobody were there yet: whoever needs the cache tries again for a while.
    assert!(matches!(refused, ConnectError::NobodyThere(_)), "{refused}");
    drop(open);
    while SocketCache::connect(&served.path).is_err() {
        thread::yield_now();
    }
}

#[test]
fn three_hundred_threads_share_one_cache() {
    let served = serve();
    let (cache, (bytes, digest)) = (served.connect(), content());
    cache.put_blob(&digest, Content::Bytes(&bytes)).unwrap();
    thread::scope(|scope| {
        for index in 0..300 {
            let (cache, digest) = (&cache, &digest);
            scope.spawn(move || match index % 2 {
                0 => assert_eq!(cache.lookup(&MISSING, &()), Ok(None)),
                _ => assert_eq!(Digest::of(&read(cache, digest).unwrap()), *digest),
            });
        }
    });
}

#[test]
fn a_cache_leaves_room_for_others() {
    let served = serve();
    let (bytes, digest) = content();
    served.connect().put_blob(&digest, Content::Bytes(&bytes)).unwrap();
    let cache = SocketCache::with_silence(&served.path, Duration::from_secs(1)).unwrap();
    let mut open = Vec::new();
    let error = loop {
        match cache.open(&digest) {
            Ok(reader) => open.push(reader),
            Err(error) => break error,
        }
        assert!(open.len() < 100, "no limit");
    };
    // The cache is still there: only this request cannot be made.
    assert!(matches!(&error, CacheError::Failed(_)), "{error}");
    drop(open.pop());
    assert_eq!(cache.lookup(&MISSING, &()), Ok(None));
}

#[test]
fn a_request_that_panics_costs_only_itself() {
    let served = serve();
    let cache = served.connect();
    for _ in 0..3 {
        let error = cache.lookup(&PANICS, &()).unwrap_err();
        assert_eq!(error, CacheError::Failed("the request panicked".into()));
        assert_eq!(cache.lookup(&MISSING, &()), Ok(None));
    }
}

#[test]
fn nobody_has_the_door_any_more_when_the_server_is_dropped() {
    for _ in 0..50 {
        let served = serve();
        let clients: Vec<_> = (0..4).map(|_| served.greeted()).collect();
        let leaving = thread::spawn(move || drop(clients));
        drop(served.server);
        assert_eq!(Arc::strong_count(&served.shelf), 1);
        leaving.join().unwrap();
    }
}

#[test]
fn a_request_under_way_is_finished_before_the_end_and_its_client_looks_elsewhere() {
    let served = serve();
    let (cache, shelf) = (served.connect(), Arc::clone(&served.shelf));
    let asking = thread::spawn(move || cache.lookup(&WAITS, &()));
    shelf.wait_for(1);
    let path = served.path.clone();
    let ending = thread::spawn(move || drop(served.server));
    // The end has begun when the socket is gone.
    while path.exists() {
        thread::yield_now();
    }
    shelf.release();
    ending.join().unwrap();
    assert!(matches!(asking.join().unwrap(), Err(CacheError::Unreachable(_)) | Ok(None)));
}

#[test]
fn a_client_hears_that_its_long_request_goes_on() {
    let served = serve();
    let mut stream = served.greeted();
    Request::Lookup(WAITS).write(&mut stream).unwrap();
    assert_eq!(Response::read(&mut stream).unwrap(), Response::Moving(so_far(7)));
    assert_eq!(Response::read(&mut stream).unwrap(), Response::Working);
    served.shelf.release();
    let answer = std::iter::repeat_with(|| Response::read(&mut stream).unwrap());
    let answer = answer.into_iter().find(|answer| *answer != Response::Working);
    assert_eq!(answer, Some(Response::Missing));
}

#[test]
fn a_server_that_started_anew_is_found_with_the_next_request() {
    let served = serve();
    let cache = served.connect();
    cache.status().unwrap();
    drop(served.server);
    let shelf = Arc::<Shelf>::clone(&served.shelf);
    let _again = ControlServer::start(&served.path, shelf, Arc::default()).unwrap();
    assert!(matches!(cache.lookup(&MISSING, &()), Err(CacheError::Unreachable(_))));
    assert_eq!(cache.lookup(&MISSING, &()), Ok(None));
}

#[test]
fn a_blob_that_is_not_read_to_its_end_leaves_nothing_behind() {
    let served = serve();
    let (cache, (bytes, digest)) = (served.connect(), content());
    cache.put_blob(&digest, Content::Bytes(&bytes)).unwrap();
    let mut half = vec![0; bytes.len() / 2];
    // More often than there are connections.
    for _ in 0..100 {
        cache.open(&digest).unwrap().unwrap().read_exact(&mut half).unwrap();
        assert_eq!(cache.lookup(&MISSING, &()), Ok(None));
    }
    assert_eq!(read(&cache, &digest).unwrap(), bytes);
}

#[test]
fn another_version_is_named() {
    let (path, _dir) = rogue([(|stream| {
        Response::Welcome { version: 77 }.write(stream).unwrap();
    }) as fn(&mut UnixStream)]);
    let error = SocketCache::connect(&path).unwrap_err();
    assert!(matches!(error, ConnectError::Version(77)), "{error}");
    assert!(error.to_string().contains("restart"), "{error}");

    let served = serve();
    let mut stream = served.raw();
    Request::Hello { version: 77 }.write(&mut stream).unwrap();
    assert_eq!(Response::read(&mut stream).unwrap(), Response::Welcome { version: VERSION });
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_server_that_falls_silent_cannot_be_reached_and_one_at_work_can() {
    const SILENCE: Duration = Duration::from_millis(800);
    let (path, _dir) = rogue([
        (|stream| {
            welcome(stream);
            hear(stream);
            for _ in 0..5 {
                thread::sleep(SILENCE / 4);
                Response::Working.write(stream).unwrap();
            }
            Response::Missing.write(stream).unwrap();
            hear(stream);
            // Until the client has gone.
            assert_eq!(hear(stream), None);
        }) as fn(&mut UnixStream),
        |stream| assert_eq!(hear(stream), None),
    ]);
    let cache = SocketCache::with_silence(&path, SILENCE).unwrap();
    assert_eq!(cache.lookup(&MISSING, &()), Ok(None));
    for what in ["after the greeting", "before it"] {
        let error = cache.lookup(&MISSING, &()).unwrap_err();
        assert!(matches!(&error, CacheError::Unreachable(_)), "{what}: {error}");
        assert!(error.to_string().contains("does not answer"), "{what}: {error}");
    }
}

#[test]
fn content_that_is_cut_off_aborted_or_wrong_never_looks_whole() {
    let talks: [fn(&mut UnixStream); 3] = [
        |stream| {
            Response::Done.write(stream).unwrap();
            stream.write_all(&4_u32.to_le_bytes()).unwrap();
            stream.write_all(b"cont").unwrap();
        },
        |stream| {
            struct Failing(&'static [u8]);
            impl Read for Failing {
                fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                    if self.0.is_empty() {
                        return Err(io::ErrorKind::Other.into());
                    }
                    self.0.read(buffer)
                }
            }
            Response::Done.write(stream).unwrap();
            write_content(stream, &mut Failing(b"conten")).unwrap().unwrap_err();
            hear(stream);
        },
        |stream| {
            Response::Done.write(stream).unwrap();
            write_content(stream, &mut &b"kontent"[..]).unwrap().unwrap();
            hear(stream);
        },
    ];
    for talk in talks {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let serving = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            hear(&mut stream);
            welcome(&mut stream);
            hear(&mut stream);
            talk(&mut stream);
        });
        let cache = SocketCache::connect(&path).unwrap();
        let mut reader = cache.open(&Digest::of(b"content")).unwrap().unwrap();
        reader.read_to_end(&mut Vec::new()).unwrap_err();
        // Nor when it is asked once more.
        reader.read_to_end(&mut Vec::new()).unwrap_err();
        drop((reader, cache));
        serving.join().unwrap();
    }
}
