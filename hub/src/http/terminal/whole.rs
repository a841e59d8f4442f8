//! A piece of a terminal's output as plain bytes or text. Its place is told in headers, which go first, so that the
//! piece is read whole before it is sent; how many are held at once is bounded.

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use registry_core::terminal::text::{TextOptions, TextView};
use registry_core::{Boot, Cursor, Frame, FrameKind};
use tokio::sync::Semaphore;

use super::{MAX_READ_BYTES, VIEW};
use crate::error::{HubError, HubResult};
use crate::terminal::views::Turns;
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

/// What a piece is made of.
pub(super) enum Form {
    /// The bytes as they were.
    Bytes,
    /// Lines of text.
    Text(Box<TextView>),
}

impl Form {
    pub(super) fn text() -> Self {
        Self::Text(Box::new(TextView::new(TextOptions::default())))
    }
}

/// Reads to the end and answers with nothing but output.
pub(super) async fn answer(mut items: ReadStream, form: Form, turns: Turns) -> HubResult<Response> {
    let permit = PIECES.acquire().await.map_err(HubError::fault)?;
    let media_type = match form {
        Form::Bytes => "application/octet-stream",
        Form::Text(_) => "text/plain; charset=utf-8",
    };
    let mut piece = Piece { form, chunks: Vec::new(), bytes: 0, complete: true };
    let mut end = None;
    while let Some(item) = items.next().await {
        match item? {
            ReadItem::Start { recovered, .. } => piece.complete &= recovered,
            ReadItem::Frames { boot, frames } => {
                let full;
                (piece, full) = piece
                    .work(&turns, move |piece| frames.iter().find_map(|frame| piece.take(boot, frame)))
                    .await?;
                if let Some(next) = full {
                    end = Some((next, true));
                    break;
                }
            }
            ReadItem::CaughtUp => {}
            ReadItem::End { next, truncated } => end = Some((next, truncated)),
        }
    }
    (piece, ()) = piece.work(&turns, Piece::finish).await?;
    let (next, truncated) = end.ok_or_else(|| HubError::fault("a read ended without an end"))?;
    let headers = headers(media_type, next, piece.complete, truncated)?;
    // The permit goes with the body: the piece is held until it is sent.
    let body = stream::iter(piece.chunks).map(move |chunk| {
        let _held = &permit;
        Ok::<_, std::convert::Infallible>(chunk)
    });
    Ok((headers, Body::from_stream(body)).into_response())
}

/// What it is, and its place.
pub(super) fn headers(
    media_type: &'static str,
    next: Cursor,
    complete: bool,
    truncated: bool,
) -> HubResult<[(HeaderName, HeaderValue); 4]> {
    let flag = |flag: bool| HeaderValue::from_static(if flag { "true" } else { "false" });
    Ok([
        (CONTENT_TYPE, HeaderValue::from_static(media_type)),
        (NEXT_CURSOR, HeaderValue::try_from(next.to_string()).map_err(HubError::fault)?),
        (RECOVERED, flag(complete)),
        (TRUNCATED, flag(truncated)),
    ])
}

struct Piece {
    form: Form,
    chunks: Vec<Bytes>,
    bytes: u64,
    complete: bool,
}

impl Piece {
    /// Bytes are handed on as they are; what makes text of them is done where it may take time.
    async fn work<T: Send + 'static>(
        mut self,
        turns: &Turns,
        step: impl FnOnce(&mut Self) -> T + Send + 'static,
    ) -> HubResult<(Self, T)> {
        let computes = matches!(self.form, Form::Text(_));
        let work = move || {
            let done = step(&mut self);
            (self, done)
        };
        if computes { turns.compute(VIEW, work).await } else { Ok(work()) }
    }

    /// Takes a frame. `Some`: the piece has become as long as one may be, with this frame.
    fn take(&mut self, boot: Boot, frame: &Frame) -> Option<Cursor> {
        self.complete &= !matches!(frame.kind, FrameKind::Gap { .. });
        match (&mut self.form, &frame.kind) {
            (Form::Bytes, FrameKind::Output { data, .. }) => self.chunks.push(data.clone()),
            (Form::Bytes, _) => {}
            (Form::Text(view), _) => {
                let mut text = String::new();
                view.feed(boot, frame, |line| push(&mut text, line.text, line.ended));
                self.add(text);
            }
        }
        // Bytes are bounded by what was asked for; blanks can make more text of them.
        (self.bytes >= MAX_READ_BYTES).then(|| frame.cursor(boot))
    }

    fn finish(&mut self) {
        if let Form::Text(view) = &mut self.form {
            let mut text = String::new();
            view.finish(|line| push(&mut text, line.text, line.ended));
            self.add(text);
        }
    }

    fn add(&mut self, text: String) {
        self.bytes += text.len() as u64;
        if !text.is_empty() {
            self.chunks.push(Bytes::from(text));
        }
    }
}

fn push(text: &mut String, line: &str, ended: bool) {
    text.push_str(line);
    if ended {
        text.push('\n');
    }
}
