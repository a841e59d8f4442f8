//! What somebody has to change is said in one line, at once, and without a secret.

use muster_hub::store::StoreError;
use muster_hub::store::postgres::{PostgresStore, PostgresTerminalLog};
use muster_test_servers::Postgres;
use registry_core::Clock;

use super::Database;

/// What opening the database of this URL is refused with.
async fn refusal(url: &str) -> String {
    match PostgresStore::open(url, Clock::system()).await.err() {
        Some(StoreError::Refused { what, .. }) => {
            assert!(!what.contains('\n') && !what.contains("secret"), "{what}");
            what
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_user_or_name_is_told() {
    let server = Postgres::shared();
    let database = Database::new();
    let name = database.url.rsplit('/').next().unwrap();
    for url in [server.url_as("muster", "a-wrong-secret", name), server.url_as("nobody", "a-secret", name)] {
        let what = refusal(&url).await;
        assert!(what.contains("user and password"), "{what}");
    }
    let no_password = format!("postgres://muster@127.0.0.1:{}/{name}", server.port());
    let what = refusal(&no_password).await;
    assert!(what.contains("password"), "{what}");
    let what = refusal(&server.url("no_such_database")).await;
    assert!(what.contains("no such database") && what.contains("no_such_database"), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_not_is_told() {
    let database = Database::new();
    let name = database.url.rsplit('/').next().unwrap();
    database.sql("CREATE ROLE weak LOGIN PASSWORD 'a-secret'");
    let what = refusal(&Postgres::shared().url_as("weak", "a-secret", name)).await;
    assert!(what.contains("CREATE on the database"), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_be_written_to_is_told() {
    let database = Database::new();
    let name = database.url.rsplit('/').next().unwrap();
    database.sql(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on"));
    let what = refusal(&database.url).await;
    assert!(what.contains("read-only"), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_another_encoding_is_told() {
    let server = Postgres::shared();
    server.sql("postgres", "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0");
    let what = refusal(&server.url("latin")).await;
    assert!(what.contains("LATIN1") && what.contains("UTF8"), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_database_is_refused_untouched() {
    let database = Database::new();
    database.open().await;
    database.open_log().await;
    database.sql("UPDATE muster.parts SET version = 99");
    let before = database.sql("SELECT * FROM muster.parts ORDER BY part");
    let store = PostgresStore::open(&database.url, Clock::system()).await.err();
    let log = PostgresTerminalLog::open(&database.url, Clock::system()).await.err();
    for error in [store, log] {
        assert!(matches!(error, Some(StoreError::TooNew { found: 99, known: 1 })), "{error:?}");
    }
    assert_eq!(database.sql("SELECT * FROM muster.parts ORDER BY part"), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_there_is_unavailable() {
    let server = Postgres::start();
    let url = server.database();
    server.stop();
    let error = PostgresStore::open(&url, Clock::system()).await.err();
    assert!(matches!(error, Some(StoreError::Unavailable(_))), "{error:?}");
    let told = error.unwrap().to_string();
    assert!(told.contains("refused") && !told.contains("secret"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encryption_is_as_the_url_says() {
    let server = Postgres::start();
    let url = server.database();
    let host = |url: &str| url.replace("127.0.0.1", "localhost");
    let what = refusal(&format!("{url}?sslmode=require")).await;
    assert!(what.contains("does not offer encryption"), "{what}");

    let authority = server.speak_tls("localhost");
    let stranger = Postgres::start().speak_tls("localhost");
    let root = authority.root.display();
    let encrypted = async |url: &str| {
        let store = PostgresStore::open(url, Clock::system()).await.unwrap();
        let count = "SELECT count(*), bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                     WHERE application_name = 'muster'";
        let found = server.sql("test_0", count);
        muster_hub::store::Store::close(&store).await;
        found
    };
    assert_eq!(encrypted(&format!("{url}?sslmode=disable")).await, "1|f");
    assert_eq!(encrypted(&url).await, "1|t", "preferred where it is to be had");
    assert_eq!(encrypted(&format!("{url}?sslmode=require")).await, "1|t");
    assert_eq!(encrypted(&format!("{}?sslmode=verify-full&sslrootcert={root}", host(&url))).await, "1|t");
    assert_eq!(encrypted(&server.socket_url("test_0")).await, "1|f");

    let what = refusal(&format!("{url}?sslmode=verify-full&sslrootcert={root}")).await;
    assert!(what.contains("not to be trusted"), "another host's name: {what}");
    let other = format!("{}?sslmode=verify-full&sslrootcert={}", host(&url), stranger.root.display());
    let what = refusal(&other).await;
    assert!(what.contains("not to be trusted") || what.contains("sslrootcert"), "another authority: {what}");
    let what = refusal(&format!("{}?sslmode=verify-full", host(&url))).await;
    assert!(what.contains("not to be trusted") || what.contains("sslrootcert"), "not the system's: {what}");
}
