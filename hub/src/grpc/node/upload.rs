//! One upload: frames up, acks and rewinds down.

use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use muster_proto::v1;
use muster_proto::v1::upload_down::Message as Down;
use muster_proto::v1::upload_up::Message as Up;
use registry_core::{Boot, CloseReason};
use tokio::time::sleep;
use tonic::{Status, Streaming};

use super::super::convert;
use super::{Permit, Uploads, read, read_first, violation};
use crate::error::{ErrorCode, HubError};
use crate::hub::Hub;
use crate::ingest::Changes;

/// While frames have to be sent again, the room for them may come from other nodes, of which this stream is not told.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

pub(super) struct UploadStream {
    hub: Arc<Hub>,
    uploads: Arc<Uploads>,
    up: Streaming<v1::UploadUp>,
    open: Option<Open>,
    over: bool,
}

/// A stream that was accepted.
struct Open {
    permit: Permit,
    changes: Changes,
    acked: u64,
}

impl UploadStream {
    pub(super) fn new(hub: Arc<Hub>, uploads: Arc<Uploads>, up: Streaming<v1::UploadUp>) -> Self {
        Self { hub, uploads, up, open: None, over: false }
    }

    /// What goes down the stream. Everything that comes up is handled while this is polled.
    pub(super) fn run(self) -> impl Stream<Item = Result<v1::UploadDown, Status>> + Send {
        unfold(self, |mut this| async move {
            if this.over {
                return None;
            }
            let answer = match this.next().await {
                Ok(Some(message)) => Ok(v1::UploadDown { message: Some(message) }),
                Ok(None) => return None,
                Err(error) => {
                    this.over = true;
                    if error.code() == ErrorCode::ProtocolViolation {
                        this.hub.metrics.malformed("grpc");
                    }
                    let node = this.open.as_ref().map(|open| open.permit.log.node().id().clone());
                    tracing::warn!(?node, code = error.code().as_str(), "upload refused: {error}");
                    super::super::answer(&this.hub, Err(error))
                }
            };
            Some((answer, this))
        })
    }

    async fn next(&mut self) -> Result<Option<Down>, HubError> {
        let Some(open) = &mut self.open else {
            let Some(message) = read_first(&self.hub, &mut self.up).await? else { return Ok(None) };
            let Some(Up::Hello(hello)) = message.message else {
                return Err(violation("an upload begins with an UploadHello"));
            };
            let (open, next) = self.accept(&hello)?;
            let cursor = open.cursor(next);
            self.open = Some(open);
            return Ok(Some(Down::Start(v1::UploadStart { next: Some(cursor) })));
        };
        loop {
            if let Some(down) = open.news(&self.hub) {
                return Ok(Some(down));
            }
            // Left unread, frames wait with their agent: HTTP/2's window of this stream fills, the session's does not.
            let wants_more = self.hub.ingest.wants_more(&open.permit.log);
            tokio::select! {
                biased;
                () = open.permit.stream.cancelled() => return Ok(None),
                changed = open.changes.changed() => {
                    if changed.is_err() {
                        return Ok(None);
                    }
                }
                () = sleep(LOOK_AGAIN), if !wants_more || open.permit.log.is_behind(open.permit.boot) => {}
                message = read(&self.hub, &mut self.up), if wants_more => match message? {
                    Some(v1::UploadUp { message: Some(Up::Frames(batch)) }) => open.take(&self.hub, batch)?,
                    Some(v1::UploadUp { message: Some(Up::Hello(_)) }) => {
                        return Err(violation("an upload has one UploadHello"));
                    }
                    // A kind of message that this build does not know.
                    Some(v1::UploadUp { message: None }) => {}
                    None => return Ok(None),
                },
            }
        }
    }

    /// Finds the session that this stream belongs to. A second stream of the same session takes over from the first.
    fn accept(&self, hello: &v1::UploadHello) -> Result<(Open, u64), HubError> {
        let refused = || HubError::plain(ErrorCode::UploadRefused);
        let nonce = <[u8; 16]>::try_from(&hello.upload_nonce[..]).map_err(|_| refused())?;
        let (permit, earlier) = {
            let mut uploads = self.uploads.lock();
            let permit = uploads.get_mut(&nonce).ok_or_else(refused)?;
            let earlier = std::mem::replace(&mut permit.stream, permit.session.child_token());
            (permit.clone(), earlier)
        };
        earlier.cancel();
        let changes = permit.log.changes();
        let Some(next) = permit.log.begin_upload(permit.boot) else {
            // Another run of the agent was granted its boot meanwhile: this session can never upload again.
            permit.holder.outbox().close(CloseReason::Superseded);
            return Err(refused());
        };
        // What is durable is acked anew: the ack may have been lost with the stream before.
        Ok((Open { permit, changes, acked: 0 }, next))
    }
}

impl Open {
    /// An ack or a rewind that the agent has not been told.
    fn news(&mut self, hub: &Hub) -> Option<Down> {
        let Permit { log, boot, .. } = &self.permit;
        let durable = log.durable(*boot).unwrap_or(0);
        if durable > self.acked {
            self.acked = durable;
            return Some(Down::Ack(v1::Ack { through: Some(self.cursor(durable)) }));
        }
        let next = hub.ingest.rewind(log, *boot)?;
        // What the store lost is acked anew when it is there again.
        self.acked = self.acked.min(next - 1);
        Some(Down::Rewind(v1::Rewind { next: Some(self.cursor(next)) }))
    }

    fn take(&self, hub: &Hub, batch: v1::FrameBatch) -> Result<(), HubError> {
        let frames = batch.frames.into_iter().map(convert::frame_from_proto).collect::<Result<_, _>>()?;
        hub.ingest.take(&self.permit.log, Boot(batch.boot), frames)
    }

    fn cursor(&self, seq: u64) -> v1::Cursor {
        v1::Cursor { boot: self.permit.boot.0, seq }
    }
}
