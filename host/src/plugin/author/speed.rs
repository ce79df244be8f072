//! How fast a plugin is on this machine: loading, instances, calls, documents.

use std::sync::Arc;

use bson::RawDocumentBuf;
use tokio::time::{Duration, Instant};
use wasmtime::component::Component;

use super::subject;
use crate::{
    error::{Error, Kind, Result},
    model::{
        Batch, Namespace,
        author::{Speed, Subject},
        plugin::{PluginSettings, World},
    },
    plugin::{engine::Engines, filter::Filter, identity::Issuer, load, times::Times},
    ports::{DocumentFilter, TokenIssuer},
};

/// Instances that are made.
const INSTANCES: u32 = 50;
/// Calls about nothing.
const CALLS: u32 = 1000;

/// Measures a plugin. A filter judges `documents`, or made ones of `document_bytes` when there are
/// none, in batches of `batch_documents`, on one instance for `time`.
///
/// # Errors
/// Those of loading and of its calls.
pub async fn measure(
    subject: &Subject,
    documents: Vec<RawDocumentBuf>,
    (batch_documents, document_bytes): (u32, u32),
    time: Duration,
    settings: &PluginSettings,
) -> Result<Speed> {
    let (bytes, _, _) = load::read(&subject.component)?;
    let compile = tokio::task::spawn_blocking(move || {
        let engines = Engines::new()?;
        let begun = Instant::now();
        Component::from_binary(&engines.filter, &bytes).map_err(|error| {
            Error::new(Kind::PluginNotComponent, "it cannot be compiled").caused_by(error)
        })?;
        Result::Ok(begun.elapsed())
    })
    .await
    .map_err(|error| Error::new(Kind::Internal, "compiling crashed").caused_by(error))??;
    // The first fills the cache, if there is one.
    subject::load(subject, settings).await?;
    let begun = Instant::now();
    let candidate = subject::load(subject, settings).await?;
    let load = begun.elapsed();
    let speed = Speed { compile, load, ..Speed::default() };
    match candidate.loaded.world {
        World::DocumentFilter => {
            let filter = Filter::new(candidate.loaded).await?;
            let documents = match documents.as_slice() {
                [] => made(batch_documents, document_bytes),
                _ => documents,
            };
            of_filter(speed, &filter, &documents, batch_documents, time).await
        }
        World::IdentityProvider => {
            let issuer = Issuer::new(candidate.loaded, Arc::default()).await?;
            let begun = Instant::now();
            for _ in 0..INSTANCES {
                issuer.validate().await.map_err(|error| {
                    Error::new(Kind::PluginConfigInvalid, "it refuses its configuration")
                        .caused_by(error)
                })?;
            }
            Ok(Speed { instantiate: begun.elapsed() / INSTANCES, ..speed })
        }
    }
}

/// Documents of a size.
fn made(count: u32, bytes: u32) -> Vec<RawDocumentBuf> {
    let filler = "x".repeat(usize::try_from(bytes.saturating_sub(100)).unwrap_or(0));
    (0..count)
        .map(|number| {
            let status = if number % 2 == 0 { "active" } else { "gone" };
            bson::rawdoc! {"_id": i64::from(number), "status": status, "number": i64::from(number),
            "name": "Ada Lovelace", "text": filler.as_str()}
        })
        .collect()
}

/// Measures a filter.
async fn of_filter(
    speed: Speed,
    filter: &Filter,
    documents: &[RawDocumentBuf],
    batch_documents: u32,
    time: Duration,
) -> Result<Speed> {
    let namespace = Namespace::parse("app.documents")?;
    let begun = Instant::now();
    for _ in 0..INSTANCES {
        drop(filter.start().await?);
    }
    let instantiate = begun.elapsed() / INSTANCES;
    let empty = Batch::from_documents::<&RawDocumentBuf>([]);
    let mut warm = filter.start().await?;
    let begun = Instant::now();
    for _ in 0..CALLS {
        warm = filter.call(warm, &namespace, &empty).await?.warm;
    }
    let empty_call = begun.elapsed() / CALLS;
    let size = usize::try_from(batch_documents.max(1)).unwrap_or(usize::MAX);
    let batches: Vec<Batch> = documents.chunks(size).map(Batch::from_documents).collect();
    let bytes: usize = documents.iter().map(|document| document.as_bytes().len()).sum();
    let (times, begun, mut judged, mut rounds) = (Times::default(), Instant::now(), 0_u64, 0_u64);
    while begun.elapsed() < time {
        for batch in &batches {
            let call = Instant::now();
            filter.apply(&namespace, batch).await?;
            times.add(call.elapsed());
            judged += u64::try_from(batch.count()).unwrap_or(0);
        }
        rounds += 1;
    }
    let seconds = begun.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
    let count = u32::try_from(documents.len()).unwrap_or(u32::MAX).max(1);
    #[allow(clippy::cast_precision_loss, reason = "a rate for people to read")]
    let (documents_per_second, bytes_per_second) =
        (judged as f64 / seconds, (bytes as f64) * (rounds as f64) / seconds);
    Ok(Speed {
        instantiate,
        empty_call,
        batch_documents: batch_documents.min(count),
        document_bytes: u32::try_from(bytes).unwrap_or(u32::MAX) / count,
        documents_per_second,
        bytes_per_second,
        p50: Duration::from_micros(times.percentile(50)),
        p99: Duration::from_micros(times.percentile(99)),
        ..speed
    })
}
