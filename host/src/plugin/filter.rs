//! Document filters: warm instances behind the port `DocumentFilter`.
//!
//! One call per batch. An instance serves one call at a time and is kept for the next; after any
//! failure it is thrown away. A failed batch is tried once more on a fresh instance, then cut in
//! halves to find the document; nothing is ever skipped. An instance that cannot be made is no
//! document's fault.

mod counters;
mod culprit;

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use tokio::{
    sync::Semaphore,
    time::{Duration, Instant, timeout},
};
use wasmtime::{
    PoolConcurrencyLimitError, Store, UpdateDeadline,
    component::{ResourceAny, ResourceTableError},
};

use super::{
    bindings::v0_1::filter::{
        DocumentFilter as World, DocumentFilterPre,
        exports::syncline::plugin::filter::{self as wit, Failure, Options},
    },
    context::{Guest, quoted},
    engine::SETTINGS,
    flat::Sent,
    limits::{Limits, MAX_RESOURCES},
    load::Loaded,
    output::{self, Judgement, Tally},
};
use crate::{
    error::{Error, Kind, Result},
    model::{
        Batch, Namespace,
        plugin::{NamespaceCounters, PluginCounters, World as PluginWorld},
    },
    ports::{DocumentFilter, Sorted, Verdict},
};

use counters::Counters;

pub(crate) use super::bindings::v0_1::filter::exports::syncline::plugin::filter::Plan;

/// Instances of one filter that work at once.
const MAX_INSTANCES: usize = 16;
/// Calls after which an instance is replaced, so that memory it leaks is given back.
const MAX_CALLS: u32 = 10_000;

/// Bytes that an idle instance keeps for its next batch.
const MAX_SCRATCH: usize = 8 * 1024 * 1024;

/// A configured filter.
pub(crate) struct Filter {
    /// The component.
    loaded: Arc<Loaded>,
    /// The component, its exports resolved.
    pre: DocumentFilterPre<Guest>,
    /// What it announced.
    plan: Plan,
    /// What of the documents it gets.
    sent: Sent,
    /// What its verdicts depend on.
    fingerprint: String,
    /// Instances that wait for work.
    idle: Mutex<Vec<Warm>>,
    /// How many may work at once.
    permits: Semaphore,
    /// Instances alive.
    alive: Arc<AtomicUsize>,
    /// What it did so far.
    counters: Counters,
}

/// An instance with its session.
pub(crate) struct Warm {
    /// Its memory and state.
    store: Store<Guest>,
    /// Its exports.
    world: World,
    /// The configured filter in it.
    session: ResourceAny,
    /// Calls so far.
    calls: u32,
    /// Room in which batches are laid out for it.
    scratch: Vec<u8>,
    /// Counts it while it lives.
    _alive: Alive,
}

/// A batch that was judged.
pub(crate) struct Judged {
    /// What was said.
    pub(crate) said: Judgement,
    /// The instance, fit for the next call.
    pub(crate) warm: Warm,
}

/// Counts an instance while it lives.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    /// Counts one more.
    fn new(counter: &Arc<AtomicUsize>) -> Self {
        counter.fetch_add(1, Relaxed);
        Self(Arc::clone(counter))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Filter {
    /// Makes the first instance, which shows whether the configuration can be used.
    ///
    /// # Errors
    /// `PluginConfigInvalid` with the key, and what a call can end in.
    pub(crate) async fn new(loaded: Loaded) -> Result<Self> {
        let pre = DocumentFilterPre::new(loaded.pre.clone()).map_err(|error| {
            Error::new(Kind::PluginWrongWorld, "it exports no filter").caused_by(error)
        })?;
        let shared = &loaded.shared;
        let fingerprint = format!(
            "sha256:{};config:{};contract:{};{SETTINGS}",
            loaded.digest,
            hex::encode(Sha256::digest(shared.config.as_bytes())),
            loaded.contract,
        );
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let mut filter = Self {
            pre,
            plan: Plan { replaces: false, reads: Vec::new() },
            sent: Sent::Whole,
            fingerprint,
            idle: Mutex::new(Vec::new()),
            permits: Semaphore::new((processors * 2).min(MAX_INSTANCES)),
            alive: Arc::default(),
            counters: Counters::default(),
            loaded: Arc::new(loaded),
        };
        let mut first = filter.start().await.map_err(|error| filter.named(error))?;
        filter.plan = filter.ask_plan(&mut first).await.map_err(|error| filter.named(error))?;
        filter.sent = Sent::of(&filter.plan);
        filter.park(first);
        Ok(filter)
    }

    /// The component.
    pub(crate) fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// Instances alive.
    pub(crate) fn instances(&self) -> usize {
        self.alive.load(Relaxed)
    }

    /// What it did so far.
    pub(crate) fn counters(&self) -> PluginCounters {
        self.counters.total()
    }

    /// What became of documents, collection by collection.
    pub(crate) fn namespaces(&self) -> Vec<NamespaceCounters> {
        self.counters.namespaces()
    }

    /// Puts the plugin's name in front of an error.
    fn named(&self, error: Error) -> Error {
        error.at(format!("plugin `{}`", self.loaded.shared.name))
    }

    /// Makes an instance and its session.
    ///
    /// # Errors
    /// `PluginConfigInvalid`, and what a call can end in.
    pub(crate) async fn start(&self) -> Result<Warm> {
        self.start_with(Vec::new()).await
    }

    /// As [`Self::start`], with entries of a later contract.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub(crate) async fn start_with(&self, extra: Vec<(String, String)>) -> Result<Warm> {
        let shared = &self.loaded.shared;
        let guest = Guest::new(Arc::clone(shared), PluginWorld::DocumentFilter, None);
        let alive = Alive::new(&self.alive);
        let mut store = Store::new(self.pre.engine(), guest);
        store.limiter(|guest| &mut guest.limiter);
        store.epoch_deadline_callback(|context| {
            // The time-out around the call sees to the deadline; this is the second lock.
            if Instant::now() > context.data().deadline + Duration::from_secs(1) {
                return Ok(UpdateDeadline::Interrupt);
            }
            Ok(UpdateDeadline::Yield(1))
        });
        begin(&mut store, shared.limits.deadline, Limits::output_bytes(0));
        let options = Options { config: shared.config.clone(), extra };
        let made = timeout(shared.limits.deadline, async {
            let world = self.pre.instantiate_async(&mut store).await?;
            let session = world.syncline_plugin_filter().call_init(&mut store, &options).await?;
            wasmtime::Result::Ok((world, session))
        })
        .await;
        match made {
            Ok(Ok((world, Ok(session)))) => {
                Ok(Warm { store, world, session, calls: 0, scratch: Vec::new(), _alive: alive })
            }
            Ok(Ok((_, Err(failure)))) => Err(match failure {
                Failure::Config(text) => Error::new(Kind::PluginConfigInvalid, quoted(&text)),
                other => from_failure(&other),
            }),
            Ok(Err(error)) => Err(from_trap(&mut store, &error)),
            Err(_) => Err(too_late(shared.limits.deadline, "to start")),
        }
    }

    /// What it announced when it was loaded.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What of the documents it gets.
    pub(crate) fn sent(&self) -> &Sent {
        &self.sent
    }

    /// Asks what the filter will do.
    ///
    /// # Errors
    /// What a call can end in.
    pub(crate) async fn ask_plan(&self, warm: &mut Warm) -> Result<Plan> {
        let deadline = self.loaded.shared.limits.deadline;
        begin(&mut warm.store, deadline, Limits::output_bytes(0));
        let session = warm.world.syncline_plugin_filter().session();
        let plan = timeout(deadline, session.call_plan(&mut warm.store, warm.session)).await;
        match plan {
            Ok(Ok(plan)) => Ok(plan),
            Ok(Err(error)) => Err(from_trap(&mut warm.store, &error)),
            Err(_) => Err(too_late(deadline, "to say its plan")),
        }
    }

    /// An instance from the pool, or a new one.
    async fn take(&self) -> Result<Warm> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match idle {
            Some(warm) => Ok(warm),
            None => self.fresh().await,
        }
    }

    /// A new instance, at the second try if need be: a busy machine holds one up now and then.
    async fn fresh(&self) -> Result<Warm> {
        match self.start().await {
            Err(error) if error.kind() == Kind::PluginDeadline => self.start().await,
            started => started,
        }
    }

    /// Puts an instance back for the next call.
    fn park(&self, warm: Warm) {
        if warm.calls < MAX_CALLS {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(warm);
        }
    }

    /// One call. Gives the instance back only when all went well.
    ///
    /// # Errors
    /// What a call can end in, about the whole batch.
    pub(crate) async fn call(
        &self,
        warm: Warm,
        namespace: &Namespace,
        batch: &Batch,
    ) -> Result<Judged> {
        self.call_sending(&self.sent, warm, namespace, batch).await
    }

    /// As [`Self::call`], saying what of the documents the guest gets.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(crate) async fn call_sending(
        &self,
        sent: &Sent,
        mut warm: Warm,
        namespace: &Namespace,
        batch: &Batch,
    ) -> Result<Judged> {
        let mut documents = std::mem::take(&mut warm.scratch);
        documents.clear();
        sent.write(batch, &mut documents)?;
        let count = u32::try_from(batch.count())
            .map_err(|error| Error::new(Kind::Internal, "a batch is too long").caused_by(error))?;
        let deadline = self.loaded.shared.limits.deadline;
        begin(&mut warm.store, deadline, Limits::output_bytes(batch.size_bytes()));
        let input = wit::Batch {
            namespace: wit::Namespace {
                database: namespace.database().to_owned(),
                collection: namespace.collection().to_owned(),
            },
            count,
            documents,
        };
        let session = warm.world.syncline_plugin_filter().session();
        let answer =
            timeout(deadline, session.call_apply(&mut warm.store, warm.session, &input)).await;
        let outcome = match answer {
            Ok(Ok(Ok(outcome))) => outcome,
            Ok(Ok(Err(failure))) => return Err(from_failure(&failure)),
            Ok(Err(error)) => return Err(from_trap(&mut warm.store, &error)),
            Err(_) => return Err(too_late(deadline, "for one batch")),
        };
        let said = output::judgement(batch, &outcome, self.plan.replaces)?;
        warm.calls += 1;
        warm.scratch = input.documents;
        warm.scratch.shrink_to(MAX_SCRATCH);
        Ok(Judged { said, warm })
    }
}

#[async_trait]
impl DocumentFilter for Filter {
    fn name(&self) -> &str {
        &self.loaded.shared.name
    }

    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    async fn apply(&self, namespace: &Namespace, batch: &Batch) -> Result<Option<Vec<Verdict>>> {
        if batch.is_empty() {
            return Ok(None);
        }
        let _permit =
            self.permits.acquire().await.map_err(|error| {
                Error::new(Kind::Internal, "the filter is closed").caused_by(error)
            })?;
        self.counters.begin();
        let begun = Instant::now();
        let result = self.judge_all(namespace, batch).await;
        self.counters.took(begun.elapsed());
        let result = match result {
            Ok(Judged { mut said, warm }) => {
                if said.refused.is_empty() {
                    self.park(warm);
                    self.counters.count(namespace, said.tally, 0);
                    return Ok(said.verdicts);
                }
                said.refused.swap_remove(0).1
            }
            Err(error) => error,
        };
        self.counters.count(namespace, Tally::default(), 1);
        Err(self.named(result.at(namespace)))
    }

    async fn judge_each(&self, namespace: &Namespace, batch: &Batch) -> Result<Sorted> {
        let _permit =
            self.permits.acquire().await.map_err(|error| {
                Error::new(Kind::Internal, "the filter is closed").caused_by(error)
            })?;
        self.counters.begin();
        let begun = Instant::now();
        let sorted = self.sort_out(namespace, batch).await;
        self.counters.took(begun.elapsed());
        sorted.map_err(|error| {
            self.counters.count(namespace, Tally::default(), 1);
            self.named(error.at(namespace))
        })
    }
}

/// Prepares a store for a call.
fn begin(store: &mut Store<Guest>, deadline: Duration, output_bytes: usize) {
    store.set_epoch_deadline(1);
    store.set_hostcall_fuel(output_bytes);
    let guest = store.data_mut();
    guest.deadline = Instant::now() + deadline;
    guest.panic = None;
}

/// The error of a call that took too long.
pub(crate) fn too_late(deadline: Duration, what: &str) -> Error {
    Error::new(
        Kind::PluginDeadline,
        format!("it took longer than {} ms {what}", deadline.as_millis()),
    )
}

/// The error of a call that ended in a trap.
pub(crate) fn from_trap(store: &mut Store<Guest>, error: &wasmtime::Error) -> Error {
    let guest = store.data_mut();
    if let Some(refused) = guest.limiter.take_refused() {
        return Error::new(Kind::PluginMemory, refused);
    }
    if let Some(ResourceTableError::Full) = error.downcast_ref() {
        let text = format!("it holds more than {MAX_RESOURCES} things of the host at once");
        return Error::new(Kind::PluginMemory, text);
    }
    if error.downcast_ref::<wasmtime::Trap>() == Some(&wasmtime::Trap::Interrupt) {
        return Error::new(Kind::PluginDeadline, "it did not end when its time was up");
    }
    if error.is::<PoolConcurrencyLimitError>() {
        return Error::new(Kind::PluginMemory, "there is no room for another instance");
    }
    let cause = error.root_cause().to_string();
    // This one has no type of its own.
    if cause.contains("fuel allocated for hostcalls") {
        return Error::new(Kind::PluginOutputInvalid, "its answer is larger than it may be");
    }
    // Nor have these: of instances, tables and memories.
    if cause.starts_with("resource limit exceeded") || cause.contains("handle limit exceeded") {
        return Error::new(Kind::PluginMemory, quoted(&cause));
    }
    match guest.panic.take() {
        Some(text) => Error::new(Kind::PluginTrap, quoted(&text)),
        None => Error::new(Kind::PluginTrap, quoted(&cause)),
    }
}

/// The error of a call that the guest itself gave up.
fn from_failure(failure: &Failure) -> Error {
    match failure {
        Failure::Config(text) => Error::new(Kind::PluginConfigInvalid, quoted(text)),
        Failure::Malformed(position) => Error::new(
            Kind::PluginOutputInvalid,
            format!("it cannot read document {position} of the batch"),
        ),
        Failure::Internal(text) => {
            Error::new(Kind::PluginTrap, format!("it gave up: {}", quoted(text)))
        }
    }
}
