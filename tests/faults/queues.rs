//! A queue that is deleted under its workers is declared again.

use rpc_runtime::{Broker, RequestQueue};
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::raw::RawPeer;

use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::ledger::{Book, LedgerClient, client, outcome, serve};

#[tokio::test]
async fn a_deleted_queue_is_served_again_and_running_calls_are_answered() {
    for queue in [
        RequestQueue::new(unique("deleted")),
        RequestQueue::new(unique("deleted")).quorum(),
    ] {
        let name = queue.name().to_owned();
        let book = Book::behind(Gate::closed());
        let worker = Broker::connect(shared().await).await.unwrap();
        let server = serve(&worker, queue, &book).await;
        let caller = Broker::connect(shared().await).await.unwrap();
        let running = tokio::spawn(client(&caller, &name).write("running"));
        book.gate.began(1).await;

        let peer = RawPeer::connect(shared().await).await.unwrap();
        let deleted = peer
            .channel()
            .queue_delete(name.as_str().into(), Default::default());
        deleted.await.unwrap();
        book.gate.let_all_go();
        outcome(running).await.unwrap();
        let patient = LedgerClient::builder(&caller)
            .queue(&name)
            .wait_for_server(true)
            .timeout(SOON)
            .build();
        patient.write("after").await.unwrap();
        soon("the worker stops", server.stop()).await.unwrap();
        assert_eq!((book.runs("running"), book.runs("after")), (1, 1));
    }
}
