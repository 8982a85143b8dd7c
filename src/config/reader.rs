//! Reads settings by key, and collects everything that is wrong with them.
//!
//! Three layers lie over each other: the file, the environment, the flags. Each key is
//! taken once, with its type, range and default; what nobody took is unknown.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a value of any other type is wrong in the same way"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regrow_runtime::store::postgres::DatabaseUrl;
use toml::Value;

use crate::telemetry::Headers;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A command line flag.
    Flag(&'static str),
    /// Nobody set it.
    Default,
}

impl Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "${name}"),
            Self::Flag(name) => f.write_str(name),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The key, such as `queue.max_size`.
    pub(crate) key: String,
    /// What is wrong, with the value found and what is allowed.
    pub(crate) what: String,
    /// Where it was set.
    pub(crate) source: Source,
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (from {})", self.key, self.what, self.source)
    }
}

/// A setting as it is in force.
#[derive(Clone, Debug)]
pub(crate) struct Effective {
    /// Its value as TOML.
    pub(crate) value: String,
    /// Where it came from.
    pub(crate) source: Source,
}

/// The layers, and what was found out about them so far.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    values: BTreeMap<String, (Value, Source)>,
    effective: BTreeMap<String, Effective>,
    known: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl Reader {
    /// Lays a configuration file's text over what is there.
    pub(crate) fn file(&mut self, path: PathBuf, text: &str) {
        let source = Source::File(path);
        match text.parse::<toml::Table>() {
            Ok(table) => self.table("", table, &source),
            Err(error) => {
                let what = format!("is not TOML: {}", error.to_string().trim_end());
                self.problems.push(Problem {
                    key: "file".to_owned(),
                    what,
                    source,
                });
            }
        }
    }

    fn table(&mut self, prefix: &str, table: toml::Table, source: &Source) {
        for (key, value) in table {
            let key = if prefix.is_empty() {
                key
            } else {
                format!("{prefix}.{key}")
            };
            match value {
                Value::Table(inner) => self.table(&key, inner, source),
                value => {
                    self.values.insert(key, (value, source.clone()));
                }
            }
        }
    }

    /// Lays variables such as `REGROW_QUEUE__MAX_SIZE` over what is there.
    pub(crate) fn environment(&mut self, variables: impl Iterator<Item = (String, String)>) {
        for (name, value) in variables {
            let Some(rest) = name.strip_prefix("REGROW_") else {
                continue;
            };
            // Without a section it is not a setting: `REGROW_URL`, `REGROW_TOKEN`.
            if !rest.contains("__") {
                continue;
            }
            // Sections may lie in sections: `REGROW_CLUSTER__WATCHDOG__TERM`.
            let key = rest.to_lowercase().replace("__", ".");
            self.values
                .insert(key, (Value::String(value), Source::Environment(name)));
        }
    }

    /// Lays variables over what is there that are called otherwise than ours by some standard.
    /// Each comes with the key that it stands for, and the unit that its values leave out.
    pub(crate) fn standard(&mut self, variables: &[(String, String)], keys: &[(&str, &str, &str)]) {
        for (name, value) in variables {
            let key = keys.iter().find(|(standard, ..)| standard == name);
            if let Some((_, key, unit)) = key.filter(|_| !value.is_empty()) {
                let set = (
                    Value::String(format!("{value}{unit}")),
                    Source::Environment(name.clone()),
                );
                self.values.insert((*key).to_owned(), set);
            }
        }
    }

    /// Lays a flag over what is there.
    pub(crate) fn flag(&mut self, key: &str, flag: &'static str, value: Option<String>) {
        if let Some(value) = value {
            self.values
                .insert(key.to_owned(), (Value::String(value), Source::Flag(flag)));
        }
    }

    /// Lays a path given as a flag over what is there. One that is not UTF-8 is refused: what
    /// is printed, logged and announced could not name it.
    pub(crate) fn path_flag(&mut self, key: &str, flag: &'static str, path: &Path) {
        match path.to_str() {
            Some(text) => self.flag(key, flag, Some(text.to_owned())),
            None => self.problems.push(Problem {
                key: key.to_owned(),
                what: format!("found {path:?}, expected a path in UTF-8"),
                source: Source::Flag(flag),
            }),
        }
    }

    fn take<T: Clone>(
        &mut self,
        key: &str,
        default: T,
        show: impl Fn(&T) -> String,
        read: impl Fn(&Value) -> Result<T, String>,
    ) -> T {
        self.known.insert(key.to_owned());
        let (value, source) = match self.values.remove(key) {
            None => (default, Source::Default),
            Some((value, source)) => match read(&value) {
                Ok(value) => (value, source),
                Err(what) => {
                    self.problems.push(Problem {
                        key: key.to_owned(),
                        what,
                        source,
                    });
                    return default;
                }
            },
        };
        let effective = Effective {
            value: show(&value),
            source,
        };
        self.effective.insert(key.to_owned(), effective);
        value
    }

    /// A whole number.
    pub(crate) fn number(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        self.take(key, default, u64::to_string, |value| {
            let found = match value {
                Value::Integer(number) => u64::try_from(*number).ok(),
                Value::String(text) => text.replace('_', "").parse().ok(),
                _ => None,
            };
            found
                .filter(|number| range.contains(number))
                .ok_or_else(|| expected(value, &allowed))
        })
    }

    /// A duration such as `"5s"` or `"1m 30s"`.
    pub(crate) fn duration(
        &mut self,
        key: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let show = |one: &Duration| format!("\"{}\"", humantime::format_duration(*one));
        let allowed = format!(
            "a duration such as \"5s\", from {} to {}",
            humantime::format_duration(*range.start()),
            humantime::format_duration(*range.end())
        );
        self.take(key, default, show, |value| {
            let found = match value {
                Value::String(text) => humantime::parse_duration(text).ok(),
                _ => None,
            };
            found
                .filter(|one| range.contains(one))
                .ok_or_else(|| expected(value, &allowed))
        })
    }

    /// Yes or no.
    pub(crate) fn switch(&mut self, key: &str, default: bool) -> bool {
        self.take(key, default, bool::to_string, |value| match value {
            Value::Boolean(on) => Ok(*on),
            Value::String(text) => text
                .parse()
                .map_err(|_| expected(value, "`true` or `false`")),
            _ => Err(expected(value, "`true` or `false`")),
        })
    }

    /// A text that `check` accepts.
    pub(crate) fn text(
        &mut self,
        key: &str,
        default: &str,
        allowed: &str,
        check: impl Fn(&str) -> bool,
    ) -> String {
        let show = |text: &String| Value::String(text.clone()).to_string();
        self.take(key, default.to_owned(), show, |value| match value {
            Value::String(text) if check(text) => Ok(text.clone()),
            _ => Err(expected(value, allowed)),
        })
    }

    /// A part, from 0 to 1.
    pub(crate) fn part(&mut self, key: &str, default: f64) -> f64 {
        self.take(
            key,
            default,
            |part| format!("{part:?}"),
            |value| {
                let found = match value {
                    Value::Float(number) => Some(*number),
                    Value::Integer(number) => Some(*number as f64),
                    Value::String(text) => text.parse().ok(),
                    _ => None,
                };
                found
                    .filter(|part| (0.0..=1.0).contains(part))
                    .ok_or_else(|| expected(value, "a part from 0.0 to 1.0"))
            },
        )
    }

    /// Several texts, each of which `check` takes: a list, or one text with commas between them.
    pub(crate) fn list(
        &mut self,
        key: &str,
        allowed: &str,
        check: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let show = |all: &Vec<String>| {
            let all = all.iter().cloned().map(Value::String);
            Value::Array(all.collect()).to_string()
        };
        self.take(key, Vec::new(), show, |value| {
            let texts: Option<Vec<String>> = match &listed(value) {
                Value::String(text) if text.is_empty() => Some(Vec::new()),
                Value::String(text) => {
                    Some(text.split(',').map(|one| one.trim().to_owned()).collect())
                }
                Value::Array(all) => {
                    let texts = all.iter().map(|one| one.as_str().map(str::to_owned));
                    texts.collect()
                }
                _ => None,
            };
            texts
                .filter(|texts| texts.iter().all(|text| check(text)))
                .ok_or_else(|| expected(value, allowed))
        })
    }

    /// A path; not looked at.
    pub(crate) fn path(&mut self, key: &str, default: PathBuf) -> PathBuf {
        let default = default.to_string_lossy().into_owned();
        self.text(key, &default, "a path", |path| {
            !path.is_empty() && !path.contains('\0')
        })
        .into()
    }

    /// The address of a database, or nothing. Never shown with its password, also when it is
    /// no address.
    pub(crate) fn database(&mut self, key: &str) -> Option<DatabaseUrl> {
        let show = |url: &Option<DatabaseUrl>| {
            let shown = url.as_ref().map(ToString::to_string);
            Value::String(shown.unwrap_or_default()).to_string()
        };
        self.take(key, None, show, |value| match value {
            Value::String(text) if text.is_empty() => Ok(None),
            Value::String(text) => text.parse().map(Some).map_err(|error| format!("{error}")),
            other => Err(format!("is {}, not a text", other.type_str())),
        })
    }

    /// Headers, as a list or with commas between them. Their values are never shown, also when
    /// they are wrong.
    pub(crate) fn headers(&mut self, key: &str) -> Headers {
        let show = |headers: &Headers| {
            let all = headers.masked().map(Value::String);
            Value::Array(all.collect()).to_string()
        };
        let allowed = "texts such as \"authorization=Bearer%20...\"";
        self.take(key, Headers::default(), show, |value| match listed(value) {
            Value::String(text) => {
                let entries = text.split(',').map(str::trim);
                Headers::read(entries.filter(|entry| !entry.is_empty()))
            }
            Value::Array(all) => {
                let texts: Option<Vec<&str>> = all.iter().map(Value::as_str).collect();
                let texts = texts.ok_or_else(|| format!("holds something else than {allowed}"))?;
                Headers::read(texts.into_iter())
            }
            other => Err(format!("is {}, expected {allowed}", other.type_str())),
        })
    }

    /// An IP address and a port.
    pub(crate) fn address(&mut self, key: &str, default: SocketAddr) -> SocketAddr {
        let show = |address: &SocketAddr| format!("\"{address}\"");
        self.take(key, default, show, |value| match value {
            Value::String(text) => text
                .parse()
                .map_err(|_| expected(value, "an address such as \"127.0.0.1:7400\"")),
            _ => Err(expected(value, "an address such as \"127.0.0.1:7400\"")),
        })
    }

    /// Adds a problem between values that are each valid.
    pub(crate) fn object(&mut self, key: &str, what: String) {
        let source = self
            .effective
            .get(key)
            .map_or(Source::Default, |found| found.source.clone());
        self.problems.push(Problem {
            key: key.to_owned(),
            what,
            source,
        });
    }

    /// Adds a problem with a variable that is not one of ours.
    pub(crate) fn refuse_variable(&mut self, name: &str, what: String) {
        self.problems.push(Problem {
            key: "telemetry".to_owned(),
            what: format!("{name} {what}"),
            source: Source::Environment(name.to_owned()),
        });
    }

    /// Everything that is wrong, unknown keys included, and everything in force.
    pub(crate) fn finish(mut self) -> (Vec<Problem>, BTreeMap<String, Effective>) {
        for (key, (_, source)) in std::mem::take(&mut self.values) {
            let what = match nearest(&key, self.known.iter()) {
                Some(near) => format!("is not a setting; did you mean `{near}`?"),
                None => "is not a setting; `regrow node --print-config` lists them".to_owned(),
            };
            self.problems.push(Problem { key, what, source });
        }
        self.problems.sort_by(|a, b| a.key.cmp(&b.key));
        (self.problems, self.effective)
    }
}

/// A list that was given as text, such as in a variable.
fn listed(value: &Value) -> Value {
    let text = value.as_str().filter(|text| text.starts_with('['));
    let table = text.and_then(|text| format!("list = {text}").parse::<toml::Table>().ok());
    let list = table.and_then(|mut table| table.remove("list"));
    list.unwrap_or_else(|| value.clone())
}

fn expected(found: &Value, allowed: &str) -> String {
    let mut found = found.to_string();
    if 80 < found.chars().count() {
        found = format!("{}…", found.chars().take(80).collect::<String>());
    }
    format!("found {found}, expected {allowed}")
}

/// The known key within a third of its length in edits, if there is one.
fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    known
        .map(|one| (strsim::levenshtein(key, one), one))
        .filter(|(distance, one)| distance * 3 <= one.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, one)| one)
}
