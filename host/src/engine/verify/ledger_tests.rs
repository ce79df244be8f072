//! What is scanned again, and what is remembered meanwhile.

use bson::rawdoc;

use super::*;

/// A moment of the source.
const TIME: ClusterTime = ClusterTime { t: 1, i: 1 };

/// A ledger of one collection with so many partitions that need no scan.
fn ledger(partitions: usize, done: Done<'_>) -> (Ledger, Uuid) {
    let (mut ledger, uuid) = (Ledger::new(80), Uuid::new());
    ledger.add(uuid, vec![Bounds::default(); partitions], done);
    ledger.shapes.rounds = 1;
    (ledger, uuid)
}

/// How far the last partition is.
fn pass(ledger: &Ledger) -> Pass {
    ledger.collections.values().flat_map(|c| &c.parts).last().unwrap().pass
}

#[test]
fn how_many_ids_fit_depends_on_their_length_and_on_how_many_partitions_share_the_room() {
    let fitting = |partitions: usize, length: usize| {
        let (mut ledger, uuid) = ledger(partitions, Done::All);
        let fits = (0..).take_while(|n| {
            ledger.touch(&uuid, &rawdoc! { "_id": format!("{n:length$}") }, TIME);
            pass(&ledger) != Pass::Waiting
        });
        (fits.count(), ledger.held)
    };
    assert_eq!(fitting(1, 9), (40, 0), "all of it is forgotten and scanned again");
    assert_eq!(fitting(8, 9).0, 10);
    assert_eq!(fitting(1, 3 * ID_BYTES).0, 20, "each counts as four");
}

#[tokio::test(start_paused = true)]
async fn a_scan_goes_on_where_it_ended_unless_too_much_changed() {
    let (mut ledger, uuid) = ledger(1, Done::None);
    let scan = |ledger: &mut Ledger, lower: Option<i32>| {
        let Some(scan) = ledger.take_scan(Instant::now()) else { panic!("{ledger:?}") };
        let begin = scan.bounds.lower.as_ref().map(|id| id.get_i32("_id").unwrap());
        assert_eq!(begin, lower);
        scan
    };
    let found = |next: Option<i32>, documents: u64| {
        let mut found = Scanned::new(5);
        found.next = next.map(|id| rawdoc! { "_id": id });
        found.is_cut = next.is_some();
        found.source_documents = documents;
        found
    };
    let first = scan(&mut ledger, None);
    ledger.scanned(&first, Some(found(Some(50), 50)), Instant::now());
    assert_eq!(pass(&ledger), Pass::Begun);
    for (id, held) in [(49, 1), (50, 1), (51, 1), (7, 2)] {
        ledger.touch(&uuid, &rawdoc! { "_id": id }, TIME);
        assert_eq!(ledger.held, held, "what is not scanned yet need not be remembered: {id}");
    }
    // A scan that breaks loses what it did itself.
    let second = scan(&mut ledger, Some(50));
    ledger.scanned(&second, None, Instant::now());
    assert!(ledger.take_scan(Instant::now()).is_none(), "not at once");
    tokio::time::advance(RETRY_SCAN).await;
    let third = scan(&mut ledger, Some(50));
    ledger.touch(&uuid, &rawdoc! { "_id": 60 }, TIME);
    assert_eq!(ledger.held, 3, "what is being read is");
    ledger.scanned(&third, Some(found(Some(70), 20)), Instant::now());
    assert_eq!(ledger.progress(|_| None).source_documents, 70);
    // Too much at once: from the beginning.
    for id in 0..50 {
        ledger.touch(&uuid, &rawdoc! { "_id": id }, TIME);
    }
    assert_eq!((pass(&ledger), ledger.held), (Pass::Waiting, 0));
    let again = scan(&mut ledger, None);
    ledger.scanned(&again, Some(found(None, 90)), Instant::now());
    assert_eq!(pass(&ledger), Pass::Done);
    assert_eq!(ledger.progress(|_| None).source_documents, 90);
}
