//! Writes BSON: values made here beside fields taken over as they stand.

use super::{Document, Field, Malformed, Value};

/// A document that owns its bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct DocumentBuf {
    /// All of it; checked like [`Document`].
    bytes: Vec<u8>,
}

impl std::fmt::Debug for DocumentBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_document().fmt(f)
    }
}

impl DocumentBuf {
    /// A document that fills the bytes.
    ///
    /// # Errors
    /// When the length says otherwise or the end mark is missing.
    pub fn new(bytes: Vec<u8>) -> Result<Self, Malformed> {
        Document::new(&bytes)?;
        Ok(Self { bytes })
    }

    /// The document to read.
    pub fn as_document(&self) -> Document<'_> {
        Document { bytes: &self.bytes }
    }

    /// All of it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All of it.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Writes one document, field by field.
///
/// ```
/// use syncline_sdk::bson::{Document, Value, Writer};
///
/// # fn shorten(document: Document<'_>) -> Result<(), syncline_sdk::bson::Malformed> {
/// let mut writer = Writer::with_capacity(document.as_bytes().len());
/// for field in document.fields() {
///     let field = field?;
///     match (field.key, field.value()?) {
///         (b"name", Value::String(name)) => {
///             let short: String = name.chars().take(3).collect();
///             writer.value("name", Value::String(&short));
///         }
///         _ => writer.field(&field),
///     }
/// }
/// let shortened = writer.finish();
/// # assert_eq!(shortened.as_document().get("name")?, Some(Value::String("Ada")));
/// # Ok(())
/// # }
/// # let mut sample = Writer::new();
/// # sample.value("_id", Value::Int32(1));
/// # sample.value("name", Value::String("Adalbert"));
/// # shorten(sample.finish().as_document()).unwrap();
/// ```
///
/// A key must hold no zero byte; a document with one is malformed and refused by the host.
#[derive(Debug, Default)]
pub struct Writer {
    /// What is written so far.
    bytes: Vec<u8>,
    /// Where the open documents begin, the outermost first.
    open: Vec<usize>,
}

impl Writer {
    /// An empty document.
    pub fn new() -> Self {
        Self::with_capacity(64)
    }

    /// An empty document with room for this many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut writer = Self { bytes: Vec::with_capacity(bytes.max(5)), open: Vec::new() };
        writer.begin();
        writer
    }

    /// Takes a field over as it stands.
    pub fn field(&mut self, field: &Field<'_>) {
        self.bytes.extend_from_slice(field.element);
    }

    /// Takes a field over under another key.
    pub fn field_as(&mut self, key: impl AsRef<[u8]>, field: &Field<'_>) {
        self.key(field.kind, key.as_ref());
        self.bytes.extend_from_slice(field.raw);
    }

    /// Begins an embedded document; [`Self::end`] ends it.
    pub fn begin_document(&mut self, key: impl AsRef<[u8]>) {
        self.key(0x03, key.as_ref());
        self.begin();
    }

    /// Begins an array; [`Self::end`] ends it. Its keys are `0`, `1` and so on.
    pub fn begin_array(&mut self, key: impl AsRef<[u8]>) {
        self.key(0x04, key.as_ref());
        self.begin();
    }

    /// Ends the embedded document or array that was begun last.
    pub fn end(&mut self) {
        let Some(start) = self.open.pop() else { return };
        self.bytes.push(0);
        let length = self.bytes.len().saturating_sub(start);
        // A document beyond the largest length is refused by the host, whatever its prefix says.
        let length = i32::try_from(length).unwrap_or(i32::MAX).to_le_bytes();
        if let Some(prefix) = self.bytes.get_mut(start..start.saturating_add(4)) {
            prefix.copy_from_slice(&length);
        }
    }

    /// Writes a value.
    pub fn value(&mut self, key: impl AsRef<[u8]>, value: Value<'_>) {
        self.key(value.type_byte(), key.as_ref());
        match value {
            Value::Double(number) => self.put(&number.to_le_bytes()),
            Value::String(text) => self.text(text.as_bytes()),
            Value::Document(document) | Value::Array(document) => self.put(document.as_bytes()),
            Value::Binary(subtype, bytes) => {
                self.length(bytes.len());
                self.bytes.push(subtype);
                self.put(bytes);
            }
            Value::ObjectId(id) => self.put(&id),
            Value::Bool(truth) => self.bytes.push(u8::from(truth)),
            Value::DateTime(millis) => self.put(&millis.to_le_bytes()),
            Value::Regex(pattern, options) => {
                self.put(pattern);
                self.bytes.push(0);
                self.put(options);
                self.bytes.push(0);
            }
            Value::DbPointer(namespace, id) => {
                self.text(namespace);
                self.put(&id);
            }
            Value::NotUtf8(text) | Value::JavaScript(text) | Value::Symbol(text) => self.text(text),
            Value::JavaScriptWithScope(raw) => self.put(raw),
            Value::Int32(number) => self.put(&number.to_le_bytes()),
            Value::Timestamp(number) => self.put(&number.to_le_bytes()),
            Value::Int64(number) => self.put(&number.to_le_bytes()),
            Value::Decimal128(bytes) => self.put(&bytes),
            Value::Undefined | Value::Null | Value::MinKey | Value::MaxKey => {}
        }
    }

    /// Ends what is still open and returns the document.
    pub fn finish(mut self) -> DocumentBuf {
        while !self.open.is_empty() {
            self.end();
        }
        DocumentBuf { bytes: self.bytes }
    }

    /// Leaves room for a length and remembers where.
    fn begin(&mut self) {
        self.open.push(self.bytes.len());
        self.put(&[0; 4]);
    }

    /// Writes type and key.
    fn key(&mut self, kind: u8, key: &[u8]) {
        self.bytes.push(kind);
        self.put(key);
        self.bytes.push(0);
    }

    /// Writes a length-prefixed string.
    fn text(&mut self, text: &[u8]) {
        self.length(text.len().saturating_add(1));
        self.put(text);
        self.bytes.push(0);
    }

    /// Writes a length.
    fn length(&mut self, length: usize) {
        self.put(&i32::try_from(length).unwrap_or(i32::MAX).to_le_bytes());
    }

    /// Writes bytes.
    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }
}
