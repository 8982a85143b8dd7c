//! A life is renewed whatever else its node waits for, and nobody waits for a node that is gone.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_is_renewed_while_its_node_waits_for_others() {
    let schema = Schema::create().await;
    let config = PostgresConfig {
        life_term: Duration::from_secs(600),
        ..shared(&schema, "n")
    };
    let store = Postgres::open(config).await.expect("sound");
    store.next_boot().await.expect("a life");
    // Another node stands still in the middle of a change.
    let mut other = schema.connect().await;
    let lock = "BEGIN; SELECT value FROM meta FOR UPDATE";
    execute(&mut other, lock.to_owned()).await;
    let waiting = async {
        let number = async || {
            let waits = "SELECT count(*) FROM pg_stat_activity \
                WHERE wait_event_type = 'Lock' AND application_name LIKE 'regrow n %'";
            schema.number(waits).await
        };
        while number().await < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        store.renew_life(0).await
    };
    let changing = store.change_control(|_| Ok::<(), std::convert::Infallible>(()));
    let renewed = tokio::select! {
        counted = store.raise_boots() => panic!("counted although it is locked: {counted:?}"),
        _ = changing => panic!("changed although it is locked"),
        renewed = soon("a renewal", waiting) => renewed,
    };
    renewed.expect("nobody else took over");
    execute(&mut other, "ROLLBACK".to_owned()).await;
    store.close().await;
}

/// What is locked for a life is held against whoever takes it over; a machine that is cut off in the
/// middle of a transaction does not say that it is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_stands_still_ends_with_the_life_that_it_is_for() {
    let schema = Schema::create().await;
    let config = PostgresConfig {
        life_term: Duration::from_secs(2),
        ..shared(&schema, "n")
    };
    let store = Postgres::open(config).await.expect("sound");
    let setting = "SELECT setting::bigint FROM pg_settings \
        WHERE name = 'idle_in_transaction_session_timeout'";
    let mut found = Vec::new();
    let inner = &store.0;
    for kept in [&inner.heir, &inner.sharer, &inner.registrar] {
        let asked = store.on(kept, "ask", async |connection| {
            let row = sqlx::query(setting).fetch_one(connection).await?;
            row.try_get::<i64, _>(0)
        });
        found.push(asked.await.expect("readable"));
    }
    let mut writer = inner.writer.lock().await;
    let connection = writer.connection.as_mut().expect("open");
    let row = sqlx::query(setting).fetch_one(connection).await;
    found.push(row.expect("readable").get(0));
    drop(writer);
    assert_eq!(found, [2_000; 4], "in milliseconds");
    store.close().await;
}
