use std::sync::atomic::AtomicU32;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

const PATIENCE: Duration = Duration::from_millis(200);

/// Lines: an answer is one, and `!` alone ends the connection.
struct Lines(Arc<AtomicU32>);

impl Protocol for Lines {
    type Reader = String;

    fn read(&mut self, input: &mut BytesMut, reader: Option<&mut String>) -> io::Result<bool> {
        let Some(end) = memchr::memchr(b'\n', input) else { return Ok(false) };
        let line = input.split_to(end + 1);
        match reader {
            _ if &*line == b"!\n" => Err(io::ErrorKind::ConnectionAborted.into()),
            Some(reader) => {
                reader.push_str(std::str::from_utf8(&line[..end]).expect("is text"));
                Ok(true)
            }
            None => {
                self.0.fetch_add(1, Ordering::AcqRel);
                Ok(false)
            }
        }
    }
}

fn pipeline(capacity: usize) -> (Arc<Pipeline<String>>, DuplexStream, Arc<AtomicU32>) {
    let (near, far) = duplex(capacity);
    let unasked = Arc::new(AtomicU32::new(0));
    (Arc::new(Pipeline::new(near, Lines(Arc::clone(&unasked)), Some(PATIENCE))), far, unasked)
}

async fn ask(pipeline: &Pipeline<String>, text: &str) -> Result<String, Ended> {
    let write = |out: &mut BytesMut| out.extend_from_slice(format!("{text}\n").as_bytes());
    pipeline.ask(Instant::now(), String::new(), write).await.map(|answered| answered.reader)
}

/// Answers each line with itself.
fn echo(mut far: DuplexStream) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut buffer = vec![0; 256];
        while let Ok(count @ 1..) = far.read(&mut buffer).await {
            far.write_all(&buffer[..count]).await.expect("is read");
        }
    })
}

#[tokio::test(start_paused = true)]
async fn everyone_gets_the_own_answer_however_the_bytes_are_cut() {
    for capacity in [1, 3, 7, 4096] {
        let (pipeline, far, _) = pipeline(capacity);
        let echo = echo(far);
        let callers = (0..200).map(|n| {
            let pipeline = Arc::clone(&pipeline);
            tokio::spawn(async move { ask(&pipeline, &n.to_string()).await })
        });
        for (n, caller) in callers.collect::<Vec<_>>().into_iter().enumerate() {
            assert_eq!(caller.await.expect("ends"), Ok(n.to_string()));
        }
        assert_eq!(pipeline.depth(), 0);
        drop(pipeline);
        echo.await.expect("the connection is closed with the pipeline");
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_one_write() {
    let (pipeline, mut far, _) = pipeline(4096);
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let pipeline = Arc::clone(&pipeline);
            tokio::spawn(async move { ask(&pipeline, "x").await })
        })
        .collect();
    let mut seen = [0; 64];
    assert_eq!(far.read(&mut seen).await.expect("arrives"), 16, "all eight at once");
    far.write_all(&seen[..16]).await.expect("is read");
    for caller in callers {
        assert_eq!(caller.await.expect("ends"), Ok("x".to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn the_answer_of_one_who_left_is_nobody_elses() {
    let (pipeline, mut far, unasked) = pipeline(4096);
    let gone = tokio::time::timeout(Duration::from_millis(1), ask(&pipeline, "gone")).await;
    assert!(gone.is_err());
    assert_eq!(pipeline.depth(), 1, "still owed");
    let asking = {
        let pipeline = Arc::clone(&pipeline);
        tokio::spawn(async move { ask(&pipeline, "here").await })
    };
    far.read_exact(&mut [0; 10]).await.expect("arrives");
    far.write_all(b"gone\nhere\nunasked\n").await.expect("is read");
    assert_eq!(asking.await.expect("ends"), Ok("here".to_owned()));
    while unasked.load(Ordering::Acquire) == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(pipeline.depth(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_end_is_told_to_all_and_takes_no_more() {
    for last_words in [&b"!\n"[..], b""] {
        let (pipeline, mut far, _) = pipeline(4096);
        let callers: Vec<_> = (0..3)
            .map(|_| {
                let pipeline = Arc::clone(&pipeline);
                tokio::spawn(async move { ask(&pipeline, "x").await })
            })
            .collect();
        far.read_exact(&mut [0; 6]).await.expect("arrives");
        far.write_all(b"x\n").await.expect("is read");
        far.write_all(last_words).await.expect("is read");
        drop(far);
        let mut answers = Vec::new();
        for caller in callers {
            answers.push(caller.await.expect("ends"));
        }
        assert_eq!(answers, [Ok("x".to_owned()), Err(Ended::Within), Err(Ended::Within)]);
        assert_eq!(ask(&pipeline, "late").await, Err(Ended::Before));
        assert!(pipeline.why().is_some());
        assert!(pipeline.has_ended());
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_never_answered_ends_it_for_all() {
    let (pipeline, mut far, _) = pipeline(4096);
    let start = Instant::now();
    for _ in 0..3 {
        // Answers before do not put the end off.
        let asking = ask(&pipeline, "a");
        let answering = async {
            far.read_exact(&mut [0; 2]).await.expect("arrives");
            tokio::time::sleep(PATIENCE / 2).await;
            far.write_all(b"a\n").await.expect("is read");
        };
        assert_eq!(tokio::join!(asking, answering).0, Ok("a".to_owned()));
    }
    assert_eq!(ask(&pipeline, "b").await, Err(Ended::Within));
    assert_eq!(start.elapsed(), PATIENCE / 2 * 3 + PATIENCE);
    assert!(pipeline.has_ended());
}
