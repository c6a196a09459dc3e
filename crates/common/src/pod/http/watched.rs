//! The socket under hyper. It reports when everything is written.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::place::Place;

/// How much a client may still send after its connection was closed, in bytes: enough for what it had
/// begun, so that it reads the answer before it sees the end.
const MAX_LINGERING: usize = 256 * 1024;

pub(super) struct Watched {
    stream: TcpStream,
    /// Bytes that arrived before hyper got the connection and are still to be read.
    buffered: Bytes,
    place: Arc<Place>,
    /// The client has closed its side.
    at_end: bool,
    /// How many bytes arrived after this side was closed.
    lingered: usize,
}

impl Watched {
    pub(super) fn new(stream: TcpStream, buffered: Bytes, place: Arc<Place>) -> Self {
        Self { stream, buffered, place, at_end: false, lingered: 0 }
    }

    /// The socket, and the bytes that arrived and were not read.
    pub(super) fn into_parts(self) -> (TcpStream, Bytes) {
        (self.stream, self.buffered)
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.buffered.is_empty() {
            let next = self.buffered.len().min(buffer.remaining());
            buffer.put_slice(&self.buffered[..next]);
            self.buffered.advance(next);
            if self.buffered.is_empty() {
                self.buffered = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.at_end = buffer.filled().len() == before;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes once it has written all that it has.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.place.flushed();
        Poll::Ready(Ok(()))
    }

    /// Closes this side, and discards what the client still sends: with bytes left unread, the kernel
    /// would reset the connection, and the client might never see its answer.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        self.place.closing();
        while !self.at_end && self.lingered < MAX_LINGERING {
            let mut passed_over = [MaybeUninit::uninit(); 4096];
            let mut buffer = ReadBuf::uninit(&mut passed_over);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            self.at_end = buffer.filled().is_empty();
            self.lingered += buffer.filled().len();
        }
        Poll::Ready(Ok(()))
    }
}
