//! The verifier inside the engine: what it finds, when, and that it finds nothing else.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bson::{RawDocumentBuf, doc};
use syncline::{
    engine::{self, Alone, DocumentFilters, Patience},
    error::{Error, Kind},
    model::{
        Namespace,
        options::{BuildIndexes, StartOptions},
        progress::State,
        verification::{CollectionPair, KnownEqual, Mismatch, MismatchKind, VerificationProgress},
    },
};
use syncline_tests::fake::{
    Cluster, FakeDestination, FakeSource, Faults, Life,
    cluster::{Call, Write},
    events::raw,
};

use crate::{
    invariants::{Running, body, filled, live, namespace},
    schedule::{World, options},
};

/// Calls that take a moment and read stale snapshots.
const LATE: Faults = Faults { delay: 60, long_delay: 2, stale_read: 50, ..Faults::NONE };

/// Lets an engine run and starts a sync that is verified.
async fn start(world: &World) -> Running {
    start_with(world, &Life::endless(), BuildIndexes::AfterDataCopy).await
}

/// The same with an engine that can die.
async fn start_with(world: &World, life: &Arc<Life>, mode: BuildIndexes) -> Running {
    let running = live(world, life);
    running.wait(|handle| handle.progress().state == State::Idle).await;
    let options = options(mode);
    running.handle.start(StartOptions { verification: Some(true), ..options }).await.unwrap();
    running
}

/// What is published of the verification.
fn found(running: &Running) -> VerificationProgress {
    running.handle.progress().verification.unwrap_or_default()
}

/// Waits until so many mismatches are listed, and returns them.
async fn listed(running: &Running, count: usize) -> Vec<Mismatch> {
    running
        .wait(|handle| handle.progress().verification.is_some_and(|v| v.mismatches.len() >= count))
        .await;
    found(running).mismatches.to_vec()
}

/// `{_id: …}`
fn id(id: i32) -> RawDocumentBuf {
    raw(&doc! { "_id": id })
}

/// Puts a document on a cluster behind everybody's back, or takes it away.
fn plant(cluster: &Cluster, at: i32, document: Option<RawDocumentBuf>) {
    let mut state = cluster.state();
    let time = state.tick();
    let collection = state.named_mut(&namespace()).unwrap();
    collection.documents.put(&id(at), document, time);
}

/// The present document of the source.
fn original(world: &World, at: i32) -> Option<RawDocumentBuf> {
    world.source.state().named(&namespace()).unwrap().documents.get(&id(at)).cloned()
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_difference_is_listed_wherever_it_is_and_goes_away_when_mended() {
    let world = filled(60, LATE);
    let spec = doc! { "v": 2, "key": { "serial": 1 }, "name": "serial_1" };
    world.source.change(|state| state.create_index(&namespace(), &spec));
    let running = start_with(&world, &Life::endless(), BuildIndexes::BeforeDataCopy).await;
    running.copied().await;
    // The first and the last document, and every sort of difference in between.
    for at in [0, 33, 59] {
        plant(&world.destination, at, None);
    }
    plant(&world.destination, 20, Some(body(20, 99)));
    plant(&world.destination, 41, Some(raw(&doc! { "serial": 0, "_id": 41 })));
    plant(&world.destination, 1_000, Some(body(1_000, 0)));
    {
        let mut state = world.destination.state();
        let collection = state.named_mut(&namespace()).unwrap();
        collection.indexes.retain(|spec| spec.get_str("name").is_ok_and(|name| name == "_id_"));
        collection.options = raw(&doc! { "validationLevel": "off" });
    }
    let listed = listed(&running, 8).await;
    let documents: Vec<(i32, MismatchKind)> = listed
        .iter()
        .filter_map(|m| Some((m.id.as_ref()?.get_i32("_id").unwrap(), m.kind)))
        .collect();
    use MismatchKind::{Different, Extra, FieldOrder, Index, Missing, Options};
    let expected = [
        (0, Missing),
        (20, Different),
        (33, Missing),
        (41, FieldOrder),
        (59, Missing),
        (1_000, Extra),
    ];
    assert_eq!(documents, expected);
    let shapes: Vec<(MismatchKind, &str)> = listed
        .iter()
        .filter(|m| m.id.is_none())
        .map(|m| (m.kind, m.detail.as_deref().unwrap_or_default()))
        .collect();
    assert_eq!(shapes, [(Index, "serial_1 is missing"), (Options, "validationLevel")]);
    assert!(listed.iter().all(|m| m.namespace == "app.a"));
    assert!(!running.handle.progress().can_commit);
    let refused = running.handle.commit().await.unwrap_err();
    assert_eq!(refused.kind(), Kind::CannotCommitYet);
    assert!(refused.full().contains("3 missing"), "{}", refused.full());

    for at in [0, 20, 33, 41, 59, 1_000] {
        plant(&world.destination, at, original(&world, at));
    }
    {
        let mut state = world.destination.state();
        let collection = state.named_mut(&namespace()).unwrap();
        collection.indexes.push(spec);
        collection.options = RawDocumentBuf::new();
    }
    running.commit().await;
    assert_eq!(world.difference(), None);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_was_lost_is_found_when_an_event_touches_the_document() {
    let world = filled(40, LATE);
    let running = start(&world).await;
    running.wait(|handle| handle.progress().can_commit).await;
    world.destination.state().loses = Some(id(17));
    world.source.change(|state| state.write(&namespace(), vec![Write::Update(body(17, 5))]));
    let listed = listed(&running, 1).await;
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].kind, listed[0].id.clone()), (MismatchKind::Different, Some(id(17))));
    assert!(!running.handle.progress().can_commit);
    world.destination.state().loses = None;
    // The next change of the document mends it.
    world.source.change(|state| state.write(&namespace(), vec![Write::Update(body(17, 6))]));
    running.commit().await;
    assert_eq!(world.difference(), None);
}

#[tokio::test(start_paused = true)]
async fn a_commit_does_not_end_over_a_difference_and_can_be_repeated() {
    let world = filled(40, Faults::NONE);
    let running = start(&world).await;
    running.wait(|handle| handle.progress().can_commit).await;
    world.destination.state().loses = Some(id(3));
    world.source.change(|state| state.write(&namespace(), vec![Write::Replace(body(3, 5))]));
    running.handle.commit().await.unwrap();
    running.wait(|handle| handle.progress().failure.is_some()).await;
    let progress = running.handle.progress();
    let failure = progress.failure.unwrap();
    assert_eq!(failure.kind, Kind::VerificationFailed);
    assert!(failure.detail.contains("1 different: in app.a"), "{}", failure.detail);
    assert!(!progress.can_write);
    // It goes on, free to be written to on the source, and cannot be committed before it is mended.
    running.wait(|handle| handle.progress().state == State::Running).await;
    assert_eq!(world.source.state().blocks, [true, false]);
    world.source.change(|state| state.write(&namespace(), vec![Write::Update(body(4, 5))]));
    assert_eq!(listed(&running, 1).await.len(), 1);
    let refused = running.handle.commit().await.unwrap_err();
    assert_eq!(refused.kind(), Kind::CannotCommitYet);
    world.destination.state().loses = None;
    plant(&world.destination, 3, original(&world, 3));
    running.commit().await;
    assert_eq!(world.source.state().blocks, [true, false, true]);
    assert_eq!(world.difference(), None);
}

#[tokio::test(start_paused = true)]
async fn an_index_whose_key_only_an_old_server_took_is_no_mismatch() {
    let world = filled(10, Faults::NONE);
    // It cannot be created any more, but lives on over upgrades.
    let old = doc! { "v": 1, "key": { "serial": true, "other": "" }, "name": "old" };
    world.source.change(|state| state.create_index(&namespace(), &old));
    let running = start(&world).await;
    running.commit().await;
    let there = world.destination.state().named(&namespace()).unwrap().indexes.clone();
    let key = doc! { "serial": 1, "other": 1 };
    assert!(
        there.iter().any(|spec| spec.get_document("key").is_ok_and(|k| *k == key)),
        "{there:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn documents_that_change_all_the_time_are_no_mismatch_and_do_not_keep_a_commit_back() {
    let world = filled(30, LATE);
    let running = start(&world).await;
    let source = Arc::clone(&world.source);
    let users = tokio::spawn(async move {
        for serial in 1.. {
            let at = serial % 4;
            source.change(|state| state.write(&namespace(), vec![Write::Update(body(at, serial))]));
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
    });
    running.wait(|handle| handle.progress().can_commit).await;
    let begin = tokio::time::Instant::now();
    while begin.elapsed() < Duration::from_secs(15) {
        assert_eq!(found(&running).total(), 0);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!users.is_finished(), "nothing changed while it was looked at");
    running.commit().await;
    users.abort();
}

#[tokio::test(start_paused = true)]
async fn a_restart_goes_on_with_what_is_not_compared() {
    let world = filled(60, Faults::NONE);
    let life = Life::endless();
    let running = start_with(&world, &life, BuildIndexes::AfterDataCopy).await;
    running.copied().await;
    plant(&world.destination, 12, None);
    listed(&running, 1).await;
    // Long enough for what is compared to be saved.
    tokio::time::sleep(Duration::from_secs(30)).await;
    life.end();
    drop(running);
    let scans = |world: &World| {
        world.source.state().calls.iter().filter(|call| matches!(call, Call::Scan(_))).count()
    };
    let before = scans(&world);
    let again = live(&world, &Life::endless());
    let found = listed(&again, 1).await;
    assert_eq!((found[0].kind, found[0].id.clone()), (MismatchKind::Missing, Some(id(12))));
    assert_eq!(scans(&world) - before, 1, "only the partition with the mismatch is scanned again");
    plant(&world.destination, 12, original(&world, 12));
    again.commit().await;
}

#[tokio::test(start_paused = true)]
async fn ids_are_bounded_and_what_is_forgotten_is_scanned_again() {
    let mut world = filled(60, Faults::NONE);
    world.limits.verify_ids = 16;
    let running = start(&world).await;
    running.wait(|handle| handle.progress().can_commit).await;
    world.destination.state().loses = Some(id(30));
    let scans =
        || world.source.state().calls.iter().filter(|call| matches!(call, Call::Scan(_))).count();
    let before = scans();
    for serial in 1..20 {
        for at in 0..60 {
            world.source.change(|state| {
                state.write(&namespace(), vec![Write::Update(body(at, serial))]);
            });
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    let listed = listed(&running, 1).await;
    assert_eq!((listed.len(), listed[0].id.clone()), (1, Some(id(30))));
    assert!(scans() > before, "no partition was scanned again");
    world.destination.state().loses = None;
    plant(&world.destination, 30, original(&world, 30));
    running.commit().await;
}

#[tokio::test(start_paused = true)]
async fn collections_that_come_go_and_move_during_the_verification_are_no_mismatch() {
    let world = filled(80, LATE);
    let running = start(&world).await;
    running.copied().await;
    for round in 0..12 {
        let (a, b) = (namespace(), Namespace::new("app", "b").unwrap());
        world.source.change(|state| match round % 4 {
            1 => state.write(&a, (0..9).map(|n| Write::Insert(body(n, round))).collect()),
            3 => assert!(state.rename(&b, &a, true)),
            _ => assert!(state.rename(&a, &b, true)),
        });
        for _ in 0..8 {
            assert_eq!(found(&running).total(), 0, "{:?}", found(&running).mismatches);
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    }
    running.commit().await;
    assert_eq!(world.difference(), None);
}

/// A comparison of a world's clusters that notes how far it is after every batch.
fn alone(world: &World, known: HashMap<CollectionPair, KnownEqual>) -> Alone {
    Alone {
        source: Arc::new(FakeSource::new(Arc::clone(&world.source), world.chaos.clone())),
        destination: Arc::new(FakeDestination::new(
            Arc::clone(&world.destination),
            world.chaos.clone(),
        )),
        include: Vec::new(),
        exclude: Vec::new(),
        remap: Vec::new(),
        documents: Arc::new(DocumentFilters::default()),
        metadata_database: "meta".to_owned(),
        load_level: 3,
        patience: Patience::Settled,
        note_every: Duration::ZERO,
        known,
    }
}

#[tokio::test(start_paused = true)]
async fn the_verifier_alone_goes_on_inside_a_collection() {
    let world = filled(60, Faults::NONE);
    world.destination.change(|state| {
        for id in 0..60 {
            state.write(&namespace(), vec![Write::Insert(body(id, 0))]);
        }
    });
    plant(&world.destination, 50, Some(body(50, 1)));
    let notes: Mutex<Vec<(CollectionPair, KnownEqual)>> = Mutex::default();
    let note = |pair: CollectionPair, known: &KnownEqual, most: usize| {
        let mut notes = notes.lock().unwrap();
        notes.push((pair, known.clone()));
        if notes.len() < most { Ok(()) } else { Err(Error::new(Kind::Internal, "it is ended")) }
    };
    let end = |pair, known: &_| note(pair, known, 3);
    let ended = engine::verify(&alone(&world, HashMap::new()), &|_| {}, &end).await;
    assert_eq!(ended.unwrap_err().kind(), Kind::Internal);
    let (pair, known) = notes.lock().unwrap().last().cloned().unwrap();
    let next = known.next.clone().unwrap().get_i32("_id").unwrap();
    assert!((3..30).contains(&next), "{known:?}");
    assert_eq!(known.documents, (u64::try_from(next).unwrap(), u64::try_from(next).unwrap()));

    // What was equal is not read again; everything from there on is.
    plant(&world.destination, 1, None);
    plant(&world.destination, next, None);
    let again = alone(&world, HashMap::from([(pair, known)]));
    let found = engine::verify(&again, &|_| {}, &|pair, known| note(pair, known, 100)).await;
    let found = found.unwrap();
    assert_eq!((found.source_documents, found.destination_documents), (60, 59));
    let kinds: Vec<(i32, MismatchKind)> = found
        .mismatches
        .iter()
        .map(|m| (m.id.as_ref().unwrap().get_i32("_id").unwrap(), m.kind))
        .collect();
    assert_eq!(kinds, [(next, MismatchKind::Missing), (50, MismatchKind::Different)]);
    let noted = notes.lock().unwrap().len();
    assert_eq!(noted, 3, "nothing is noted behind a difference");
    // From the beginning it sees everything.
    let found = engine::verify(&alone(&world, HashMap::new()), &|_| {}, &|_, _| Ok(())).await;
    assert_eq!(found.unwrap().total(), 3);
}
