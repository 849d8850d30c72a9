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

/// One that waits for ever, like Redis' lanes.
fn patient(capacity: usize) -> (Arc<Pipeline<String>>, DuplexStream) {
    let (near, far) = duplex(capacity);
    (Arc::new(Pipeline::new(near, Lines(Arc::default()), None)), far)
}

fn pipeline(capacity: usize) -> (Arc<Pipeline<String>>, DuplexStream, Arc<AtomicU32>) {
    let (near, far) = duplex(capacity);
    let unasked = Arc::new(AtomicU32::new(0));
    (Arc::new(Pipeline::new(near, Lines(Arc::clone(&unasked)), Some(PATIENCE))), far, unasked)
}

async fn ask(pipeline: &Pipeline<String>, text: &str) -> Result<String, Ended> {
    let write = |out: &mut BytesMut| out.extend_from_slice(format!("{text}\n").as_bytes());
    let now = Instant::now();
    pipeline.ask(now, now + Duration::from_mins(1), String::new(), write).await.map(|answered| answered.reader)
}

/// Asks, waits for so many milliseconds at the most, and tells for how long it did.
async fn ask_for(pipeline: &Pipeline<String>, text: &str, millis: u64) -> (Result<String, Ended>, Duration) {
    let write = |out: &mut BytesMut| out.extend_from_slice(format!("{text}\n").as_bytes());
    let now = Instant::now();
    let answered = pipeline.ask(now, now + Duration::from_millis(millis), String::new(), write).await;
    (answered.map(|answered| answered.reader), now.elapsed())
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

#[tokio::test(start_paused = true)]
async fn who_is_late_is_told_so_at_the_deadline_and_the_others_wait_on() {
    let (pipeline, mut far) = patient(4096);
    let asked = |text: &'static str, millis: u64| {
        let pipeline = Arc::clone(&pipeline);
        async move { ask_for(&pipeline, text, millis).await }
    };
    let answering = async {
        far.read_exact(&mut [0; 8]).await.expect("arrives");
        tokio::time::sleep(Duration::from_millis(700)).await;
        far.write_all(b"a\nb\nc\nd\n").await.expect("is read");
    };
    let late = |millis| (Err(Ended::Late), Duration::from_millis(millis));
    let in_time = |text: &str| (Ok(text.to_owned()), Duration::from_millis(700));
    // The second comes with a closer deadline than the alarm was set for; the third is past at once.
    let (a, b, c, d, ()) = tokio::join!(asked("a", 500), asked("b", 300), asked("c", 0), asked("d", 60_000), answering);
    assert_eq!((a, b, c, d), (late(500), late(300), late(0), in_time("d")));
    assert_eq!(pipeline.depth(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_could_not_even_be_sent_is_told_in_time_too() {
    let (pipeline, mut far) = patient(4);
    let first = tokio::spawn({
        let pipeline = Arc::clone(&pipeline);
        async move { ask_for(&pipeline, "longer than the other side takes", 400).await }
    });
    tokio::task::yield_now().await;
    let (second, waited) = ask_for(&pipeline, "x", 100).await;
    assert_eq!((second, waited), (Err(Ended::Late), Duration::from_millis(100)));
    assert_eq!(first.await.expect("ends"), (Err(Ended::Late), Duration::from_millis(400)));
    // What was asked is sent all the same, and what is answered to it is nobody else's.
    let mut seen = vec![0; 35];
    far.read_exact(&mut seen).await.expect("arrives");
    assert_eq!(seen, b"longer than the other side takes\nx\n");
    let (third, ()) = tokio::join!(ask_for(&pipeline, "y", 100), async {
        far.read_exact(&mut [0; 2]).await.expect("arrives");
        for answer in [&b"1\n"[..], b"2\n", b"3\n"] {
            far.write_all(answer).await.expect("is read");
        }
    });
    assert_eq!(third.0, Ok("3".to_owned()));
}
