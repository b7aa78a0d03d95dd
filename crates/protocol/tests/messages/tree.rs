//! Reads the `{:?}` form of a value into a tree, so that values can be compared leaf by leaf without a second
//! description of every struct.

#[derive(Debug, PartialEq)]
pub enum Node {
    /// `Name { field: .. }`
    Struct(Vec<(String, Node)>),
    /// `Name(..)`
    Tuple(String, Vec<Node>),
    /// `[..]`
    List(Vec<Node>),
    /// `{..}` of a set or map; a set's values are absent.
    Map(Vec<(Node, Option<Node>)>),
    /// `".."` or `b".."`
    Text(Vec<u8>),
    /// Anything else without spaces: numbers, unit variants, uuids, chunk ids.
    Word(String),
}

/// Parses the whole of `text`.
pub fn parse(text: &str) -> Node {
    let mut parser = Parser { text: text.as_bytes(), at: 0 };
    let node = parser.value();
    assert_eq!(parser.at, parser.text.len(), "rest of {text}");
    node
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> u8 {
        self.text.get(self.at).copied().unwrap_or(0)
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.text[self.at..].starts_with(token.as_bytes());
        if found {
            self.at += token.len();
        }
        found
    }

    fn value(&mut self) -> Node {
        if self.eat("[") {
            return Node::List(self.until("]", Self::value));
        }
        if self.eat("{") {
            return Node::Map(self.until("}", |p| {
                let key = p.value();
                let value = p.eat(": ").then(|| p.value());
                (key, value)
            }));
        }
        if self.eat("b\"") || self.eat("\"") {
            return Node::Text(self.text());
        }
        let word = self.word();
        if self.eat(" { ") {
            return Node::Struct(self.until(" }", |p| {
                let name = p.word();
                assert!(p.eat(": "));
                (name, p.value())
            }));
        }
        if self.eat("(") {
            return Node::Tuple(word, self.until(")", Self::value));
        }
        Node::Word(word)
    }

    fn until<T>(&mut self, end: &str, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let mut items = Vec::new();
        while !self.eat(end) {
            items.push(item(self));
            self.eat(", ");
        }
        items
    }

    fn word(&mut self) -> String {
        let start = self.at;
        while self.at < self.text.len() && !b" ,()[]{}:\"".contains(&self.peek()) {
            self.at += 1;
        }
        String::from_utf8(self.text[start..self.at].to_vec()).unwrap()
    }

    /// The rest of a quoted string: escapes of `str`, `Bytes` and `BString`.
    fn text(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            let byte = self.peek();
            self.at += 1;
            match byte {
                b'"' => return out,
                b'\\' => self.escape(&mut out),
                byte => out.push(byte),
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) {
        let byte = self.peek();
        self.at += 1;
        match byte {
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'0' => out.push(0),
            b'x' => {
                let digits = std::str::from_utf8(&self.text[self.at..self.at + 2]).unwrap();
                out.push(u8::from_str_radix(digits, 16).unwrap());
                self.at += 2;
            }
            b'u' => {
                assert!(self.eat("{"));
                let digits = self.word();
                assert!(self.eat("}"));
                let letter = char::from_u32(u32::from_str_radix(&digits, 16).unwrap()).unwrap();
                out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
            }
            byte => out.push(byte),
        }
    }
}

#[test]
fn debug_forms() {
    #[derive(Debug)]
    #[allow(dead_code)]
    struct Sample {
        a: u32,
        b: Option<Vec<String>>,
        c: std::collections::BTreeMap<u8, &'static str>,
        d: bytes::Bytes,
    }
    let sample = Sample {
        a: 5,
        b: Some(vec!["x\"\u{7f}é".into(), String::new()]),
        c: [(1, "y")].into(),
        d: bytes::Bytes::from_static(b"\0\xff\n"),
    };
    let word = |text: &str| Node::Word(text.into());
    let text = |text: &str| Node::Text(text.into());
    let list = Node::List(vec![text("x\"\u{7f}é"), text("")]);
    assert_eq!(
        parse(&format!("{sample:?}")),
        Node::Struct(vec![
            ("a".into(), word("5")),
            ("b".into(), Node::Tuple("Some".into(), vec![list])),
            ("c".into(), Node::Map(vec![(word("1"), Some(text("y")))])),
            ("d".into(), Node::Text(b"\0\xff\n".to_vec())),
        ])
    );
}
