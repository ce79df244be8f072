//! MongoDB's wire protocol as far as the gateway reads it: `OP_MSG`, and the legacy `OP_QUERY` that
//! some clients still greet with.

use std::{
    io,
    sync::atomic::{AtomicI32, Ordering},
};

use anyhow::{Context, Result, bail, ensure};
use bson::{Document, RawDocument};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Reply to the legacy query.
pub(super) const OP_REPLY: i32 = 1;
/// Legacy query.
pub(super) const OP_QUERY: i32 = 2004;
/// Everything else.
pub(super) const OP_MSG: i32 = 2013;
/// A checksum follows the sections.
const CHECKSUM_PRESENT: u32 = 1;
/// No reply is expected, or another reply follows this one.
const MORE_TO_COME: u32 = 1 << 1;
/// Bytes of a header.
const HEADER_BYTES: usize = 16;
/// Longest message a server takes.
const MAX_MESSAGE_BYTES: usize = 48_000_000;

/// Request ids of messages that the gateway makes.
static NEXT_ID: AtomicI32 = AtomicI32::new(1);

/// A message: the header's fields and what follows it.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// The sender's number for it.
    pub(super) request_id: i32,
    /// The number of the message it answers.
    pub(super) response_to: i32,
    /// What it is.
    pub(super) op_code: i32,
    /// Everything behind the header.
    pub(super) body: Vec<u8>,
}

/// Four bytes at an offset, as a little-endian integer.
fn int(bytes: &[u8], at: usize) -> Result<i32> {
    let four = bytes.get(at..at + 4).context("the message is too short")?;
    Ok(i32::from_le_bytes(four.try_into()?))
}

impl Message {
    /// Reads one; `None` when the peer closed between two messages.
    pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER_BYTES];
        if from.read(&mut header[..1]).await? == 0 {
            return Ok(None);
        }
        from.read_exact(&mut header[1..]).await?;
        let field = |at: usize| int(&header, at).map_err(io::Error::other);
        let length = usize::try_from(field(0)?).unwrap_or_default();
        if !(HEADER_BYTES..=MAX_MESSAGE_BYTES + 16 * 1024).contains(&length) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "message length"));
        }
        let mut body = vec![0; length - HEADER_BYTES];
        from.read_exact(&mut body).await?;
        Ok(Some(Self { request_id: field(4)?, response_to: field(8)?, op_code: field(12)?, body }))
    }

    /// Writes it.
    pub(super) async fn write(&self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let length = i32::try_from(HEADER_BYTES + self.body.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.body.len());
        for field in [length, self.request_id, self.response_to, self.op_code] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.extend_from_slice(&self.body);
        to.write_all(&bytes).await?;
        to.flush().await
    }

    /// Whether it is an `OP_MSG` with the flag "more to come".
    pub(super) fn has_more_to_come(&self) -> bool {
        self.op_code == OP_MSG
            && int(&self.body, 0).is_ok_and(|flags| flags.cast_unsigned() & MORE_TO_COME != 0)
    }

    /// The command or the reply that it carries.
    pub(super) fn document(&self) -> Result<Document> {
        Ok(Document::try_from(self.raw()?)?)
    }

    /// The same, without decoding.
    pub(super) fn raw(&self) -> Result<&RawDocument> {
        let (start, end) = self.document_range()?;
        Ok(RawDocument::from_bytes(self.body.get(start..end).context("document range")?)?)
    }

    /// Where in the body the document stands.
    fn document_range(&self) -> Result<(usize, usize)> {
        let start = match self.op_code {
            OP_MSG => {
                let end = self.sections_end()?;
                let mut at = 4;
                loop {
                    ensure!(at < end, "the message has no body section");
                    match self.body.get(at) {
                        Some(0) => break at + 1,
                        Some(1) => at += 1 + self.length_at(at + 1)?,
                        _ => bail!("unknown section"),
                    }
                }
            }
            OP_QUERY => {
                let name = self.body.get(4..).context("the query is too short")?;
                let end = name.iter().position(|byte| *byte == 0).context("no namespace")?;
                4 + end + 1 + 8
            }
            OP_REPLY => 20,
            other => bail!("opcode {other} is not spoken here"),
        };
        Ok((start, start + self.length_at(start)?))
    }

    /// A length prefix that fits the body.
    fn length_at(&self, at: usize) -> Result<usize> {
        let length = usize::try_from(int(&self.body, at)?)?;
        ensure!(
            length >= 4 && at + length <= self.body.len(),
            "a section is longer than its message"
        );
        Ok(length)
    }

    /// Where the sections end and the checksum, if there is one, begins.
    fn sections_end(&self) -> Result<usize> {
        let flags = int(&self.body, 0)?.cast_unsigned();
        let checksum = if flags & CHECKSUM_PRESENT != 0 { 4 } else { 0 };
        self.body.len().checked_sub(checksum).context("the message is too short")
    }

    /// The namespace of a legacy query.
    pub(super) fn query_namespace(&self) -> Result<&str> {
        let name = self.body.get(4..).context("the query is too short")?;
        let end = name.iter().position(|byte| *byte == 0).context("no namespace")?;
        Ok(std::str::from_utf8(name.get(..end).context("no namespace")?)?)
    }

    /// The message with another document in it, everything else as it was, but for the checksum,
    /// which would no longer fit.
    pub(super) fn with_document(&self, document: &Document) -> Result<Self> {
        let (start, end) = self.document_range()?;
        let limit = if self.op_code == OP_MSG { self.sections_end()? } else { self.body.len() };
        let mut body = self.body.get(..start).context("range")?.to_vec();
        document.to_writer(&mut body)?;
        body.extend_from_slice(self.body.get(end..limit).context("range")?);
        if self.op_code == OP_MSG {
            let flags = int(&self.body, 0)?.cast_unsigned() & !CHECKSUM_PRESENT;
            body.splice(..4, flags.to_le_bytes());
        }
        Ok(Self { body, ..*self })
    }

    /// A command as `OP_MSG`.
    pub(super) fn command(document: &Document) -> Result<Self> {
        let mut body = vec![0; 5];
        document.to_writer(&mut body)?;
        Ok(Self { request_id: next_id(), response_to: 0, op_code: OP_MSG, body })
    }

    /// The reply to this message, in the form in which it was asked.
    pub(super) fn reply(&self, document: &Document) -> Result<Self> {
        let (op_code, mut body) = match self.op_code {
            OP_QUERY => {
                // Flags "await capable", no cursor, from 0, one document.
                let mut head = vec![0; 20];
                head.splice(0..4, 8_i32.to_le_bytes());
                head.splice(16..20, 1_i32.to_le_bytes());
                (OP_REPLY, head)
            }
            _ => (OP_MSG, vec![0; 5]),
        };
        document.to_writer(&mut body)?;
        Ok(Self { request_id: next_id(), response_to: self.request_id, op_code, body })
    }
}

/// A number for a message of our own.
fn next_id() -> i32 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[tokio::test]
    async fn a_message_survives_the_wire_and_a_change_of_its_document() {
        let mut message = Message::command(&doc! { "insert": "c", "$db": "d" }).unwrap();
        // A document sequence behind the body, then a checksum.
        let inner = doc! { "_id": 1 }.to_vec().unwrap();
        let mut sequence = vec![1];
        let size = i32::try_from(4 + 10 + inner.len()).unwrap();
        sequence.extend_from_slice(&size.to_le_bytes());
        sequence.extend_from_slice(b"documents\0");
        sequence.extend_from_slice(&inner);
        message.body.extend_from_slice(&sequence);
        message.body.extend_from_slice(&[9, 9, 9, 9]);
        message.body[0] = 1;

        let mut bytes = Vec::new();
        message.write(&mut bytes).await.unwrap();
        let read = Message::read(&mut bytes.as_slice()).await.unwrap().unwrap();
        assert_eq!(read.body, message.body);
        assert_eq!(read.document().unwrap().get_str("insert").unwrap(), "c");

        let changed = read.with_document(&doc! { "insert": "other", "$db": "d" }).unwrap();
        assert_eq!(changed.document().unwrap().get_str("insert").unwrap(), "other");
        assert_eq!(changed.body[0], 0);
        assert!(changed.body.ends_with(&sequence));

        // The body section may come last.
        let mut late = vec![0; 4];
        late.extend_from_slice(&sequence);
        late.push(0);
        doc! { "insert": "late" }.to_writer(&mut late).unwrap();
        let late = Message { body: late, ..message };
        assert_eq!(late.document().unwrap().get_str("insert").unwrap(), "late");
    }

    #[tokio::test]
    async fn nonsense_is_an_error_and_not_a_panic() {
        for body in
            [vec![], vec![0; 4], vec![0, 0, 0, 0, 7], vec![0, 0, 0, 0, 0, 255, 255, 255, 127]]
        {
            let message = Message { request_id: 1, response_to: 0, op_code: OP_MSG, body };
            assert!(message.document().is_err());
        }
        let short = [5_u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(Message::read(&mut short.as_slice()).await.is_err());
        assert!(Message::read(&mut [].as_slice()).await.unwrap().is_none());
    }

    #[test]
    fn a_legacy_query_gets_a_legacy_reply() {
        let mut body = vec![0; 4];
        body.extend_from_slice(b"admin.$cmd\0");
        body.extend_from_slice(&[0; 4]);
        body.extend_from_slice(&(-1_i32).to_le_bytes());
        doc! { "ismaster": 1 }.to_writer(&mut body).unwrap();
        let query = Message { request_id: 7, response_to: 0, op_code: OP_QUERY, body };
        assert_eq!(query.query_namespace().unwrap(), "admin.$cmd");
        assert_eq!(query.document().unwrap(), doc! { "ismaster": 1 });
        let reply = query.reply(&doc! { "ok": 1 }).unwrap();
        assert_eq!((reply.op_code, reply.response_to), (OP_REPLY, 7));
        assert_eq!(reply.document().unwrap(), doc! { "ok": 1 });
    }
}
