//! Events by chance, with edges more often than chance would have them: the same ones for the same seed, everywhere.

use crate::ExecutorEvent;
use chrono::{TimeZone, Utc};
use serde_json::{Map, Number, Value};

const FIRST_SECOND: i64 = -62_135_596_800;
const LAST_SECOND: i64 = 253_402_300_799;
const MOMENT: i64 = 1_780_271_999;
const CHARS: &[char] = &[
    'a', 'b', 'Z', '0', ' ', '"', '\\', '/', '\u{0}', '\u{8}', '\n', '\t', '\u{1f}', '\u{7f}', 'é', 'ł', '日', '\u{2028}',
    '\u{fffd}', '\u{ffff}', '👩', '\u{10ffff}', '<', '&', '{', '[', ',',
];

/// xorshift64*: no crate, and no change of one, can make other events.
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.bits() >> 11) % limit
    }

    fn id(&mut self) -> i64 {
        match self.below(8) {
            0 => i64::MAX,
            1 => i64::MIN,
            2 => 0,
            3 => (1 << 53) + self.below(3) as i64 - 1,
            4 => -(self.below(1_000) as i64),
            _ => self.bits() as i64,
        }
    }

    fn text(&mut self) -> String {
        let length = self.below(9);
        (0..length).map(|_| CHARS[self.below(CHARS.len() as u64) as usize]).collect()
    }

    fn nanos(&mut self, second: i64) -> u32 {
        let fraction = match self.below(5) {
            0 => 0,
            1 => self.below(1_000) as u32 * 1_000_000,
            2 => self.below(1_000_000) as u32 * 1_000,
            3 => 999_999_000 + self.below(1_000) as u32,
            _ => self.below(1_000_000_000) as u32,
        };
        let leaps = second.rem_euclid(60) == 59 && self.below(4) == 0;
        if leaps { 1_000_000_000 + fraction } else { fraction }
    }

    fn second(&mut self) -> i64 {
        match self.below(6) {
            0 => FIRST_SECOND + self.below((LAST_SECOND - FIRST_SECOND) as u64) as i64,
            1 => MOMENT,
            2 => LAST_SECOND,
            3 => self.below(120) as i64 - 60,
            _ => MOMENT + self.below(100_000_000) as i64,
        }
    }

    fn number(&mut self) -> Value {
        match self.below(5) {
            0 => Value::from(self.bits()),
            1 => Value::from(self.id()),
            2 => Value::from(self.below(100) as f64 / 8.0),
            _ => Number::from_f64(f64::from_bits(self.bits())).map_or(Value::Null, Value::Number),
        }
    }

    fn value(&mut self, room: u64) -> Value {
        match self.below(if room == 0 { 6 } else { 9 }) {
            0 => Value::Null,
            1 => Value::Bool(self.below(2) == 0),
            2 | 3 => Value::String(self.text()),
            4 | 5 => self.number(),
            6 => (0..self.below(4)).map(|_| self.value(room - 1)).collect(),
            _ => Value::Object(
                (0..self.below(4)).map(|_| (self.text(), self.value(room - 1))).collect::<Map<_, _>>(),
            ),
        }
    }

    pub fn event(&mut self) -> ExecutorEvent {
        let second = self.second();
        ExecutorEvent {
            execution_id: self.id(),
            event_type: self.text(),
            step: self.text(),
            status: self.text(),
            created_at: Utc.timestamp_opt(second, self.nanos(second)).unwrap(),
            context: self.value(3),
            event_id: if self.below(2) == 0 { None } else { Some(self.id()) },
            worker_id: if self.below(2) == 0 { None } else { Some(self.text()) },
            meta: if self.below(2) == 0 { None } else { Some(self.value(2)) },
        }
    }
}
