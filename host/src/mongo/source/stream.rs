//! The change stream of the whole cluster, with its place.

use std::time::Duration;

use async_trait::async_trait;
use bson::{RawArrayBuf, RawDocument, cstr, rawdoc};
use futures_util::StreamExt;
use mongodb::raw_batch_cursor::RawBatchCursor;

use super::{batch_of, cursor};
use crate::{
    error::{Error, Kind, Result},
    model::change::{Position, token_time},
    mongo::{
        classify::{CAPPED_POSITION_LOST, OBJECT_TOO_LARGE, classify, code_of},
        client::Connection,
        retry::Pauses,
    },
    ports::{EventReader, StreamBatch},
};

/// How long the server holds an answer of the change stream back while nothing happens.
const STREAM_WAIT: Duration = Duration::from_millis(500);
/// Change events per answer at most.
const STREAM_BATCH: u32 = 5_000;

/// The change stream with its place.
pub(super) struct StreamReader {
    /// The source.
    connection: Connection,
    /// Everything up to here was delivered to the caller.
    position: Position,
    /// The open cursor; `None` before the first use and after a failure.
    answers: Option<RawBatchCursor>,
    /// Events come without their document until the one is passed that did not fit into an answer
    /// with it: key, document and token together may exceed the largest document there is.
    lean: bool,
}

impl StreamReader {
    /// A stream that goes on at a position, not yet open.
    pub(super) fn new(connection: Connection, position: Position) -> Self {
        Self { connection, position, answers: None, lean: false }
    }

    /// Opens the cursor at the present position if there is none.
    pub(super) async fn ensure_open(&mut self) -> Result<()> {
        if self.answers.is_some() {
            return Ok(());
        }
        let mut stage = rawdoc! { "allChangesForCluster": true, "showExpandedEvents": true };
        match &self.position.token {
            Some(token) => stage.append(cstr!("resumeAfter"), token.clone()),
            None => stage
                .append(cstr!("startAtOperationTime"), bson::Timestamp::from(self.position.time)),
        }
        // What an update changed is never used: the document itself is fetched.
        let mut unused = RawArrayBuf::new();
        for field in ["updateDescription", "wallTime", "lsid", "txnNumber"] {
            unused.push(field);
        }
        if self.lean {
            unused.push("fullDocument");
        }
        let command = rawdoc! {
            "aggregate": 1,
            "pipeline": [{ "$changeStream": stage }, { "$unset": unused }],
            "cursor": { "batchSize": i64::from(STREAM_BATCH) },
            "readConcern": { "level": "majority" },
        };
        let opened =
            cursor(&self.connection, "admin", command, STREAM_BATCH, Some(STREAM_WAIT)).await;
        let opened =
            opened.map_err(|e| self.failure(&e, "cannot open the change stream", Kind::ReadFailed));
        self.answers = Some(opened?);
        Ok(())
    }

    /// What a failure means. An event that does not fit is asked for again without its document,
    /// which is then fetched.
    fn failure(&mut self, error: &mongodb::error::Error, what: &str, default: Kind) -> Error {
        match code_of(error) {
            Some(CAPPED_POSITION_LOST) => classify(error, what, Kind::OplogPositionLost),
            Some(OBJECT_TOO_LARGE) if self.lean => {
                let text = format!("{what}: the key of a document is too large for a change event");
                classify(error, text, Kind::UnsupportedOperation)
            }
            Some(OBJECT_TOO_LARGE) => {
                self.lean = true;
                classify(error, what, Kind::TransientNetwork)
            }
            _ => classify(error, what, default),
        }
    }

    /// One answer; a failure closes the cursor, the position stays.
    async fn advance(&mut self) -> Result<StreamBatch> {
        self.ensure_open().await?;
        let answered = match &mut self.answers {
            Some(answers) => answers.next().await,
            None => None,
        };
        let outcome = match answered {
            Some(Ok(answer)) => self.take(&answer),
            Some(Err(e)) => {
                Err(self.failure(&e, "the change stream broke", Kind::TransientNetwork))
            }
            None => Err(Error::new(Kind::TransientNetwork, "the change stream ended")),
        };
        if outcome.is_err() {
            self.answers = None;
        }
        outcome
    }

    /// Turns an answer into events and moves the position.
    fn take(&mut self, answer: &mongodb::raw_batch_cursor::RawBatch) -> Result<StreamBatch> {
        let events = batch_of(answer)?;
        let token = answer
            .as_raw_document()
            .get_document("cursor")
            .and_then(|cursor| cursor.get_document("postBatchResumeToken"))
            .map(RawDocument::to_owned)
            .map_err(|e| {
                Error::new(Kind::ReadFailed, "the change stream gave no resume token").caused_by(e)
            })?;
        let time = token_time(&token)?;
        if self.lean && !events.is_empty() {
            // The next answer carries documents again, or fails for the next one that does not fit.
            self.lean = false;
            self.answers = None;
        }
        self.position = Position { token: Some(token), time };
        Ok(StreamBatch { events, position: self.position.clone() })
    }
}

#[async_trait]
impl EventReader for StreamReader {
    async fn next(&mut self) -> Result<StreamBatch> {
        let mut pauses = Pauses::new("read the change stream");
        loop {
            match self.advance().await {
                Ok(answer) => return Ok(answer),
                Err(error) => pauses.wait(error).await?,
            }
        }
    }
}
