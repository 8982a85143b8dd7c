//! The commit that decides, when it fails.

use crate::json::Json;
use crate::queue::task::NewTask;
use crate::store::conformance::schema::Schema;
use crate::store::conformance::{Subject, shared};
use crate::store::promotion::PromotionError;
use crate::store::{Changes, DocumentRow, Store};

#[tokio::test]
async fn a_file_that_cannot_be_marked_keeps_its_tasks_and_is_worked_on() {
    let schema = Schema::create().await;
    let subject = Subject::sqlite().await;
    let queue = subject.queue.clone();
    let submit = || queue.submit(NewTask::new("k", Json::null()));
    let id = submit().await.expect("accepted").id;
    let Store::Sqlite(file) = queue.writer().store() else {
        unreachable!("made above")
    };
    file.identity().await.expect("there is room yet");
    // The page on which the mark belongs is full, and there is no other.
    let text = Json::of(&"x".repeat(468)).expect("JSON");
    let documents = (0..8).map(|n| DocumentRow {
        space: "m",
        key: n.to_string(),
        body: Some(text.clone()),
        at: queue.clock().now(),
    });
    let filled = queue.writer().write(Changes {
        documents: documents.collect(),
        ..Changes::default()
    });
    filled.await.expect("there is room yet");
    file.limit_pages(Some(1)).await;
    let moved = queue.promote(shared(&schema, "n")).await;
    assert!(matches!(moved, Err(PromotionError::Store(_))), "{moved:?}");
    assert_eq!(queue.writer().store().name(), "sqlite");
    file.limit_pages(None).await;
    let again = loop {
        // The store may still be recovering.
        match submit().await {
            Ok(accepted) => break accepted.id,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    assert_eq!(schema.number("SELECT count(*) FROM life").await, 0);
    let prepared = "SELECT count(*) FROM promotion WHERE state = 'prepared'";
    assert_eq!(schema.number(prepared).await, 1, "the try came that far");
    queue.promote(shared(&schema, "n")).await.expect("moved");
    for id in [id, again] {
        let view = queue.task(id).await.expect("readable");
        assert!(view.is_some(), "{id} is lost");
    }
    assert_eq!(schema.number("SELECT count(*) FROM task_run").await, 2);
}
