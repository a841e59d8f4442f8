//! Label selectors: which nodes a command, a list or a watch is about.
//!
//! The language is that of Kubernetes labels (set-based requirements included), because operators know it:
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors>.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The longest selector, in bytes: far more than anyone types, little enough to log.
pub const MAX_SELECTOR_BYTES: usize = 4096;
/// The most terms of a selector: each is looked up in every node's labels.
pub const MAX_SELECTOR_TERMS: usize = 64;

/// A condition on a node's labels: terms joined by commas, all of which must hold. Without terms it selects all.
///
/// | term | holds when the node |
/// | --- | --- |
/// | `role=web`, `role==web` | has the label with this value |
/// | `env!=prod` | has not: the label has another value or is not there |
/// | `gpu`, `!gpu` | has the label, has it not |
/// | `zone in (a, b)` | has the label with one of these values |
/// | `zone notin (a, b)` | has not: the label has another value or is not there |
///
/// Keys and values are any characters except white space, controls, quotes and `, = ! ( )`; a value after `=` or
/// `!=` may be empty. Matching is a lookup per term.
///
/// ```
/// use registry_core::selector::Selector;
/// let selector: Selector = "role=web, env notin (prod,stage), !old".parse()?;
/// let labels = [("role", "web"), ("env", "dev")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
/// assert!(selector.matches(&labels));
/// assert_eq!(selector.to_string(), "role=web,env notin (prod,stage),!old");
/// # Ok::<(), registry_core::selector::SelectorError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    terms: Vec<Term>,
}

/// Text that is not a selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the selector is wrong at byte {at}: expected {expected}")]
pub struct SelectorError {
    /// The offset in bytes at which it goes wrong.
    pub at: usize,
    /// What should stand there.
    pub expected: &'static str,
}

impl Selector {
    /// Reads a selector; white space between its parts means nothing.
    ///
    /// # Errors
    /// [`SelectorError`] with the place and what should stand there; also for more than [`MAX_SELECTOR_BYTES`] or
    /// [`MAX_SELECTOR_TERMS`].
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        if text.len() > MAX_SELECTOR_BYTES {
            return Err(SelectorError { at: MAX_SELECTOR_BYTES, expected: "the end (4096 bytes at most)" });
        }
        let mut parser = Parser { text, at: 0 };
        let mut terms = Vec::new();
        parser.skip_space();
        if parser.at_end() {
            return Ok(Self { terms });
        }
        loop {
            if terms.len() == MAX_SELECTOR_TERMS {
                return Err(parser.error("the end (64 terms at most)"));
            }
            terms.push(parser.term()?);
            if parser.at_end() {
                return Ok(Self { terms });
            }
            parser.expect(",", "a comma or the end")?;
        }
    }

    /// True when the labels meet every term.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_by(|key| labels.get(key).map(String::as_str))
    }

    /// True when the labels meet every term; `label` gives the value of a key, however the labels are kept.
    pub fn matches_by<'l>(&self, mut label: impl FnMut(&str) -> Option<&'l str>) -> bool {
        self.terms.iter().all(|term| {
            let value = label(&term.key);
            match &term.test {
                Test::Present => value.is_some(),
                Test::Absent => value.is_none(),
                Test::Equal(wanted) => value == Some(wanted.as_str()),
                Test::NotEqual(unwanted) => value != Some(unwanted.as_str()),
                Test::In(wanted) => value.is_some_and(|value| wanted.iter().any(|wanted| wanted == value)),
                Test::NotIn(unwanted) => {
                    !value.is_some_and(|value| unwanted.iter().any(|unwanted| unwanted == value))
                }
            }
        })
    }

    /// True when it has no terms and so selects every node.
    #[must_use]
    pub fn selects_all(&self) -> bool {
        self.terms.is_empty()
    }
}

impl FromStr for Selector {
    type Err = SelectorError;
    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, Term { key, test }) in self.terms.iter().enumerate() {
            if n > 0 {
                f.write_str(",")?;
            }
            match test {
                Test::Present => write!(f, "{key}")?,
                Test::Absent => write!(f, "!{key}")?,
                Test::Equal(value) => write!(f, "{key}={value}")?,
                Test::NotEqual(value) => write!(f, "{key}!={value}")?,
                Test::In(values) => write!(f, "{key} in ({})", values.join(","))?,
                Test::NotIn(values) => write!(f, "{key} notin ({})", values.join(","))?,
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Term {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Test {
    Present,
    Absent,
    Equal(String),
    NotEqual(String),
    In(Vec<String>),
    NotIn(Vec<String>),
}

/// Reads from left to right. Every reading function ends behind the white space that follows what it read.
struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn term(&mut self) -> Result<Term, SelectorError> {
        if self.take("!") {
            let key = self.word("a label's key")?;
            return Ok(Term { key: key.to_owned(), test: Test::Absent });
        }
        let key = self.word("a label's key or `!`")?.to_owned();
        let test = if self.take("!=") {
            Test::NotEqual(self.value())
        } else if self.take("==") || self.take("=") {
            Test::Equal(self.value())
        } else if self.at_end() || self.rest().starts_with(',') {
            Test::Present
        } else {
            let operator = self.at;
            match self.raw_word() {
                "in" => Test::In(self.values()?),
                "notin" => Test::NotIn(self.values()?),
                _ => {
                    let expected = "`=`, `!=`, `in (`, `notin (`, a comma or the end";
                    return Err(SelectorError { at: operator, expected });
                }
            }
        };
        Ok(Term { key, test })
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        self.expect("(", "`(`")?;
        let mut values = Vec::new();
        loop {
            values.push(self.word("a value")?.to_owned());
            if self.take(")") {
                return Ok(values);
            }
            self.expect(",", "a comma or `)`")?;
        }
    }

    fn value(&mut self) -> String {
        self.raw_word().to_owned()
    }

    fn word(&mut self, expected: &'static str) -> Result<&'a str, SelectorError> {
        let at = self.at;
        match self.raw_word() {
            "" => Err(SelectorError { at, expected }),
            word => Ok(word),
        }
    }

    /// The word that begins here; may be empty.
    fn raw_word(&mut self) -> &'a str {
        let rest = self.rest();
        let word = &rest[..rest.find(ends_word).unwrap_or(rest.len())];
        self.at += word.len();
        self.skip_space();
        word
    }

    fn expect(&mut self, mark: &str, expected: &'static str) -> Result<(), SelectorError> {
        if self.take(mark) { Ok(()) } else { Err(self.error(expected)) }
    }

    fn take(&mut self, mark: &str) -> bool {
        let found = self.rest().starts_with(mark);
        if found {
            self.at += mark.len();
            self.skip_space();
        }
        found
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn at_end(&self) -> bool {
        self.at == self.text.len()
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn error(&self, expected: &'static str) -> SelectorError {
        SelectorError { at: self.at, expected }
    }
}

fn ends_word(c: char) -> bool {
    c.is_whitespace() || c.is_control() || matches!(c, ',' | '=' | '!' | '(' | ')' | '"' | '\'' | '`')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn terms_select_as_kubernetes_selects() {
        let web = labels(&[("role", "web"), ("env", "dev"), ("gpu", ""), ("example.org/zone", "eu-1")]);
        let selecting = [
            "",
            "  ",
            "role=web",
            "role==web",
            " role = web ",
            "role!=db",
            "missing!=x",
            "missing!=",
            "gpu",
            "gpu=",
            "!old",
            "! old",
            "role in (db,web)",
            "role in ( db , web )",
            "role in(web)",
            "role notin (db)",
            "missing notin (db)",
            "role=web,env!=prod,gpu,!old",
            "example.org/zone=eu-1",
            "role,role,role",
        ];
        for selector in selecting {
            assert!(Selector::parse(selector).unwrap().matches(&web), "{selector}");
        }
        let not_selecting = [
            "role=db",
            "role=",
            "role=we",
            "ROLE=web",
            "role!=web",
            "missing",
            "missing=",
            "!role",
            "role in (db)",
            "missing in (db)",
            "role notin (db,web)",
            "role=web,env=prod",
            "gpu!=",
        ];
        for selector in not_selecting {
            assert!(!Selector::parse(selector).unwrap().matches(&web), "{selector}");
        }
        assert!(Selector::parse(" ").unwrap().selects_all());
        assert!(!Selector::parse("a").unwrap().selects_all());
    }

    #[test]
    fn words_of_the_language_are_keys_and_values_too() {
        let odd = labels(&[("in", "notin"), ("notin", "in")]);
        for selector in ["in", "in=notin", "in in (notin)", "notin notin (a)", "!x,notin in (in,notin)"] {
            assert!(Selector::parse(selector).unwrap().matches(&odd), "{selector}");
        }
    }

    #[test]
    fn errors_say_where_and_what() {
        let operator = "`=`, `!=`, `in (`, `notin (`, a comma or the end";
        let cases = [
            (",", 0, "a label's key or `!`"),
            ("=web", 0, "a label's key or `!`"),
            ("a,", 2, "a label's key or `!`"),
            ("a,,b", 2, "a label's key or `!`"),
            ("!", 1, "a label's key"),
            ("!!a", 1, "a label's key"),
            ("!a=b", 2, "a comma or the end"),
            ("a b", 2, operator),
            ("a ! b", 2, operator),
            ("a(b)", 1, operator),
            ("a=b c", 4, "a comma or the end"),
            ("a=b=c", 3, "a comma or the end"),
            ("a===b", 3, "a comma or the end"),
            ("a in", 4, "`(`"),
            ("a in b", 5, "`(`"),
            ("a in ()", 6, "a value"),
            ("a in (b,)", 8, "a value"),
            ("a in (b c)", 8, "a comma or `)`"),
            ("a in (b", 7, "a comma or `)`"),
            ("a in (b))", 8, "a comma or the end"),
            ("é=\"x\"", 3, "a comma or the end"),
            ("a\u{1b}[31m", 1, operator),
        ];
        for (text, at, expected) in cases {
            assert_eq!(Selector::parse(text), Err(SelectorError { at, expected }), "{text}");
        }
        let error = Selector::parse("a in (").unwrap_err();
        assert_eq!(error.to_string(), "the selector is wrong at byte 6: expected a value");
    }

    #[test]
    fn size_is_limited() {
        let longest = "x".repeat(MAX_SELECTOR_BYTES);
        assert!(Selector::parse(&longest).is_ok());
        assert_eq!(Selector::parse(&format!("{longest}x")).unwrap_err().at, MAX_SELECTOR_BYTES);
        let most = vec!["k"; MAX_SELECTOR_TERMS].join(",");
        assert!(Selector::parse(&most).is_ok());
        assert_eq!(Selector::parse(&format!("{most},k")).unwrap_err().at, most.len() + 1);
    }

    fn any_selector() -> impl Strategy<Value = Selector> {
        let word = || prop_oneof!["[a-z0-9._/-]{1,6}", "in|notin|é|[\\[;#<>]"];
        let value = || prop_oneof![Just(String::new()), word()];
        let set = || prop::collection::vec(word(), 1..4);
        let test = prop_oneof![
            Just(Test::Present),
            Just(Test::Absent),
            value().prop_map(Test::Equal),
            value().prop_map(Test::NotEqual),
            set().prop_map(Test::In),
            set().prop_map(Test::NotIn),
        ];
        let term = (word(), test).prop_map(|(key, test)| Term { key, test });
        prop::collection::vec(term, 0..8).prop_map(|terms| Selector { terms })
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(selector in any_selector()) {
            prop_assert_eq!(Selector::parse(&selector.to_string()), Ok(selector));
        }

        #[test]
        fn any_text_is_read_or_refused_within_it(text in "[a-c,=!() inot\"é\\x1b]{0,24}") {
            match Selector::parse(&text) {
                Ok(selector) => prop_assert_eq!(Selector::parse(&selector.to_string()), Ok(selector)),
                Err(error) => prop_assert!(text.is_char_boundary(error.at)),
            }
        }
    }
}
