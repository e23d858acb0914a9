//! What the Rust crate writes and what it reads, to hold the Python envelope against.
//!
//! `seed-parity write` prints a fixed list of events, one JSON text a line, as `serde_json::to_string` writes them.
//! `seed-parity make COUNT` prints so many events made by chance, the same ones each time.
//! `seed-parity read` reads one body a line from standard input and prints for each, on a line of its own,
//! `{"ok": true, "event": <the event written again>}` or `{"ok": false, "error": "..."}`.

mod made;

use chrono::{DateTime, TimeZone, Utc};
use serde_json::{json, Value};
use std::io::{self, BufRead, BufWriter, Write};

/// The crate's envelope, verbatim but for its doc comments.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct ExecutorEvent {
    pub execution_id: i64,
    pub event_type: String,
    pub step: String,
    pub status: String,
    pub created_at: DateTime<Utc>,
    #[serde(alias = "payload")]
    pub context: serde_json::Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<serde_json::Value>,
}

/// Levels of arrays and objects inside `context` that serde_json reads back; the envelope is one more.
const DEEPEST: usize = 126;

/// 2026-05-31T23:59:59Z: the last second of a minute, so that a leap second may follow it.
const MOMENT: i64 = 1_780_271_999;

fn main() -> io::Result<()> {
    let mode = std::env::args().nth(1);
    let out = BufWriter::new(io::stdout().lock());
    match mode.as_deref() {
        Some("write") => write(out),
        Some("make") => make(std::env::args().nth(2).and_then(|count| count.parse().ok()).unwrap_or(10_000), out),
        Some("read") => read(io::stdin().lock(), out),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "usage: seed-parity write|make [COUNT]|read")),
    }
}

fn write(mut out: impl Write) -> io::Result<()> {
    let lists = [times(), ids(), strings(), contexts(), numbers(), optionals(), deepest()];
    for event in lists.into_iter().flatten() {
        writeln!(out, "{}", serde_json::to_string(&event)?)?;
    }
    out.flush()
}

fn make(count: usize, mut out: impl Write) -> io::Result<()> {
    let mut chance = made::Chance::new(1);
    for _ in 0..count {
        writeln!(out, "{}", serde_json::to_string(&chance.event())?)?;
    }
    out.flush()
}

fn read(input: impl BufRead, mut out: impl Write) -> io::Result<()> {
    for line in input.split(b'\n') {
        match serde_json::from_slice::<ExecutorEvent>(&line?) {
            // Spliced in as text: a number must reach the reader as serde_json wrote it.
            Ok(event) => writeln!(out, r#"{{"ok":true,"event":{}}}"#, serde_json::to_string(&event)?)?,
            Err(error) => writeln!(out, "{}", json!({"ok": false, "error": error.to_string()}))?,
        }
    }
    out.flush()
}

/// An event with the required fields; `step` says what the line is there to show.
fn event(shows: &str) -> ExecutorEvent {
    ExecutorEvent {
        execution_id: 1,
        event_type: "step.enter".to_string(),
        step: shows.to_string(),
        status: "STARTED".to_string(),
        created_at: Utc.timestamp_opt(MOMENT, 0).unwrap(),
        context: json!({}),
        event_id: None,
        worker_id: None,
        meta: None,
    }
}

fn times() -> Vec<ExecutorEvent> {
    let at = |shows: &str, seconds, nanos| ExecutorEvent {
        created_at: Utc.timestamp_opt(seconds, nanos).unwrap(),
        ..event(shows)
    };
    vec![
        at("time: no fraction", MOMENT, 0),
        at("time: 3 digits", MOMENT, 120_000_000),
        at("time: 6 digits", MOMENT, 123_456_000),
        at("time: 9 digits", MOMENT, 123_456_789),
        at("time: one nanosecond", MOMENT, 1),
        at("time: rounds up to the next second", MOMENT, 999_999_500),
        at("time: half a microsecond", MOMENT, 500),
        at("time: leap second", MOMENT, 1_000_000_000),
        at("time: leap second, 3 digits", MOMENT, 1_500_000_000),
        at("time: leap second, its last nanosecond", MOMENT, 1_999_999_999),
        at("time: last nanosecond of 9999", 253_402_300_799, 999_999_999),
        at("time: last microsecond of 9999", 253_402_300_799, 999_999_000),
        at("time: 1970", 0, 0),
        at("time: before 1970", -1, 999_000_000),
        at("time: year 1", -62_135_596_800, 0),
    ]
}

fn ids() -> Vec<ExecutorEvent> {
    let with = |shows: &str, id: i64| ExecutorEvent {
        execution_id: id,
        event_id: Some(id),
        ..event(shows)
    };
    vec![
        with("ids: zero", 0),
        with("ids: negative", -42),
        with("ids: snowflake", 478_775_660_589_088_777),
        with("ids: beyond a double's 53 bits", (1 << 53) + 1),
        with("ids: i64 max", i64::MAX),
        with("ids: i64 min", i64::MIN),
    ]
}

fn strings() -> Vec<ExecutorEvent> {
    let controls: String = (0u8..0x20).map(char::from).collect();
    [
        ("strings: empty", ""),
        ("strings: escapes", "quote \" backslash \\ slash / \u{8}\u{c}\n\r\t"),
        ("strings: control characters", controls.as_str()),
        ("strings: NUL", "a\u{0}b"),
        ("strings: DEL and C1 controls", "\u{7f}\u{80}\u{85}\u{9f}"),
        ("strings: unicode", "żółć Привет 日本語 👩‍🚀 e\u{301} \u{202e}"),
        ("strings: line separators and BOM", "\u{2028}\u{2029}\u{feff}"),
        ("strings: edges", "\u{d7ff}\u{e000}\u{fffd}\u{ffff}\u{10000}\u{10ffff}"),
        ("strings: looks like an escape", r"\u0041 \ud800 \n"),
        ("strings: markup", "<script>&amp;</script>"),
    ]
    .into_iter()
    .map(|(shows, text)| ExecutorEvent {
        event_type: text.to_string(),
        status: text.to_string(),
        worker_id: Some(text.to_string()),
        context: json!({ text: text }),
        ..event(shows)
    })
    .collect()
}

fn with_contexts<const N: usize>(cases: [(&str, Value); N]) -> Vec<ExecutorEvent> {
    let with = |(shows, context): (&str, Value)| ExecutorEvent { context, ..event(shows) };
    cases.into_iter().map(with).collect()
}

fn contexts() -> Vec<ExecutorEvent> {
    with_contexts([
        ("context: null", Value::Null),
        ("context: true", json!(true)),
        ("context: false", json!(false)),
        ("context: integer", json!(7)),
        ("context: string", json!("text")),
        ("context: empty object", json!({})),
        ("context: empty array", json!([])),
        ("context: array", json!([1, "two", null, [3], {"four": 4}])),
        ("context: nested", json!({"rows": [{"id": 1, "tags": []}, {"id": 2, "tags": ["a", "b"]}]})),
        ("context: keys are sorted", json!({"b": 1, "a": 2, "B": 3, "": 4, "é": 5, "10": 6, "9": 7})),
        ("context: names of the envelope", json!({"event_id": "x", "context": {}, "payload": null})),
    ])
}

fn numbers() -> Vec<ExecutorEvent> {
    with_contexts([
        ("numbers: floats", json!([1.0, 0.1, 0.1 + 0.2, 1e-7, 1e-5, 1e15, 1e16, 1e17, 1e21, 1e300])),
        ("numbers: zeros", json!([0, 0.0, -0.0])),
        ("numbers: float edges", json!([f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324, f64::EPSILON])),
        ("numbers: integers", json!([u64::MAX, i64::MAX, i64::MIN, (1u64 << 53) + 1, -1])),
        ("numbers: NaN and infinity are null", json!([f64::NAN, f64::INFINITY])),
    ])
}

fn optionals() -> Vec<ExecutorEvent> {
    let with = |shows: &str, event_id, worker: Option<&str>, meta| ExecutorEvent {
        event_id,
        worker_id: worker.map(str::to_string),
        meta,
        ..event(shows)
    };
    vec![
        with("optionals: none", None, None, None),
        with("optionals: event_id", Some(7), None, None),
        with("optionals: worker_id", None, Some("worker-1"), None),
        with("optionals: meta", None, None, Some(json!({"attempts": 2}))),
        with("optionals: all", Some(7), Some("worker-1"), Some(json!({"attempts": 2}))),
        with("optionals: all empty", Some(0), Some(""), Some(json!({}))),
        with("optionals: meta is Some(null)", None, None, Some(Value::Null)),
    ]
}

fn deepest() -> Vec<ExecutorEvent> {
    let arrays = (1..DEEPEST).fold(json!([]), |inner, _| json!([inner]));
    let objects = (1..DEEPEST).fold(json!({}), |inner, _| json!({ "a": inner }));
    let mut events = with_contexts([("depth: arrays", arrays.clone()), ("depth: objects", objects)]);
    events.push(ExecutorEvent { meta: Some(arrays), ..event("depth: meta") });
    events
}
