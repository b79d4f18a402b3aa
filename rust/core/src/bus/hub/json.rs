//! Writes the few JSON objects of `query`. Text is escaped; numbers are integers.

use std::fmt::Write;

/// An object or array under construction.
#[derive(Debug)]
pub struct Json {
    out: String,
    first: bool,
}

impl Json {
    /// Begins with `open`: one of `{` and `[`.
    pub fn new(open: char) -> Self {
        Self {
            out: open.into(),
            first: true,
        }
    }

    fn separate(&mut self) {
        if !std::mem::take(&mut self.first) {
            self.out.push(',');
        }
    }

    /// Bytes so far.
    pub const fn len(&self) -> usize {
        self.out.len()
    }

    fn key(&mut self, key: &str) {
        self.separate();
        quote(&mut self.out, key);
        self.out.push(':');
    }

    /// A number in an object.
    pub fn number(&mut self, key: &str, value: impl Into<u64>) -> &mut Self {
        self.key(key);
        let _ = write!(self.out, "{}", value.into());
        self
    }

    /// Text in an object.
    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.key(key);
        quote(&mut self.out, value);
        self
    }

    /// A truth in an object.
    pub fn truth(&mut self, key: &str, value: bool) -> &mut Self {
        self.key(key);
        self.out.push_str(if value { "true" } else { "false" });
        self
    }

    /// Finished JSON in an object.
    pub fn json(&mut self, key: &str, value: &str) -> &mut Self {
        self.key(key);
        self.out.push_str(value);
        self
    }

    /// Finished JSON in an array.
    pub fn item(&mut self, value: &str) {
        self.separate();
        self.out.push_str(value);
    }

    /// Text in an array.
    pub fn item_text(&mut self, value: &str) {
        self.separate();
        quote(&mut self.out, value);
    }

    /// Ends with `close`: one of `}` and `]`.
    pub fn end(mut self, close: char) -> String {
        self.out.push(close);
        self.out
    }
}

fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::Json;

    #[test]
    fn text_is_escaped() {
        let mut json = Json::new('{');
        json.text("a\"b", "c\\d\u{1}é")
            .number("n", 7u32)
            .truth("t", true);
        assert_eq!(json.end('}'), r#"{"a\"b":"c\\d\u0001é","n":7,"t":true}"#);
    }
}
