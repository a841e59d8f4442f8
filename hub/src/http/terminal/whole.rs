//! A piece of a terminal's output as plain bytes or text. Its place is told in headers, which go first, so that the
//! piece is read whole before it is sent; how many are held at once is bounded.

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use registry_core::FrameKind;
use tokio::sync::Semaphore;

use super::super::json::View;
use crate::error::{HubError, HubResult};
use crate::terminal::{ReadItem, ReadStream};

/// Pieces that are held in memory at once, of up to 16 MiB each. Others wait their turn.
const MAX_PIECES: usize = 16;
static PIECES: Semaphore = Semaphore::const_new(MAX_PIECES);

/// Where to read on.
const NEXT_CURSOR: HeaderName = HeaderName::from_static("muster-next-cursor");
/// `false`: frames are missing between the place asked for and the first byte.
const RECOVERED: HeaderName = HeaderName::from_static("muster-recovered");
/// `true`: there is more.
const TRUNCATED: HeaderName = HeaderName::from_static("muster-truncated");

/// Reads to the end and answers with nothing but output.
pub(super) async fn answer(mut items: ReadStream, mut view: View) -> HubResult<Response> {
    let permit = PIECES.acquire().await.map_err(HubError::fault)?;
    let (mut chunks, mut complete, mut end) = (Vec::new(), true, None);
    while let Some(item) = items.next().await {
        match item? {
            ReadItem::Start { recovered, .. } => complete &= recovered,
            ReadItem::Frames { frames, .. } => {
                for frame in &frames {
                    match (&frame.kind, &mut view) {
                        (FrameKind::Output { data, .. }, View::Raw) => chunks.push(data.clone()),
                        (FrameKind::Output { data, stream }, View::Text(plain)) => {
                            chunks.push(Bytes::from(plain.feed(frame.task, *stream, data)));
                        }
                        (FrameKind::Ended(_), View::Text(plain)) => plain.forget(frame.task),
                        (FrameKind::Gap { .. }, _) => complete = false,
                        _ => {}
                    }
                }
            }
            ReadItem::CaughtUp => {}
            ReadItem::End { next, truncated } => end = Some((next, truncated)),
        }
    }
    let (next, truncated) = end.ok_or_else(|| HubError::fault("a read ended without an end"))?;
    let media_type = match view {
        View::Raw => "application/octet-stream",
        View::Text(_) => "text/plain; charset=utf-8",
    };
    let flag = |flag: bool| HeaderValue::from_static(if flag { "true" } else { "false" });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(media_type)),
        (NEXT_CURSOR, HeaderValue::try_from(next.to_string()).map_err(HubError::fault)?),
        (RECOVERED, flag(complete)),
        (TRUNCATED, flag(truncated)),
    ];
    // The permit goes with the body: the piece is held until it is sent.
    let body = stream::iter(chunks).map(move |chunk| {
        let _held = &permit;
        Ok::<_, std::convert::Infallible>(chunk)
    });
    Ok((headers, Body::from_stream(body)).into_response())
}
