//! Descriptors that travel with the bytes of a local socket.

use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags,
    },
};
use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

/// Most descriptors that come with one message: what a command reads from and its two outputs.
const MOST: usize = 3;

/// Writes to a socket; the first bytes take the descriptors with them.
pub(crate) struct Sender<'a> {
    socket: &'a UnixStream,
    descriptors: &'a [BorrowedFd<'a>],
}

impl<'a> Sender<'a> {
    /// `descriptors` are at most three.
    pub(crate) fn new(socket: &'a UnixStream, descriptors: &'a [BorrowedFd<'a>]) -> Self {
        Self { socket, descriptors }
    }
}

impl Write for Sender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !self.descriptors.is_empty()
            && !ancillary.push(SendAncillaryMessage::ScmRights(self.descriptors))
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let bytes = [IoSlice::new(bytes)];
        let sent = rustix::net::sendmsg(self.socket, &bytes, &mut ancillary, SendFlags::NOSIGNAL)?;
        self.descriptors = &[];
        Ok(sent)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads from a socket, and keeps the descriptors that come with what is read.
pub(crate) struct Receiver<'a> {
    socket: BorrowedFd<'a>,
    descriptors: Vec<OwnedFd>,
}

impl<'a> Receiver<'a> {
    pub(crate) fn new(socket: BorrowedFd<'a>) -> Self {
        Self { socket, descriptors: Vec::with_capacity(MOST) }
    }

    /// What came, which must be exactly `N` descriptors.
    pub(crate) fn take<const N: usize>(self) -> io::Result<[OwnedFd; N]> {
        self.descriptors.try_into().map_err(|_| io::ErrorKind::InvalidData.into())
    }
}

impl Read for Receiver<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let message = loop {
            let mut buffers = [IoSliceMut::new(buffer)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            match rustix::net::recvmsg(self.socket, &mut buffers, &mut ancillary, flags) {
                Err(Errno::INTR) => {}
                other => break other?,
            }
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                self.descriptors.extend(rights);
            }
        }
        Ok(message.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn descriptors_come_once_with_all_the_bytes() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let descriptors = [read.as_fd(), write.as_fd()];
        let mut sender = Sender::new(&ours, &descriptors);
        sender.write_all(b"one").unwrap();
        sender.write_all(b"two").unwrap();
        drop(ours);
        let mut receiver = Receiver::new(theirs.as_fd());
        let mut bytes = Vec::new();
        receiver.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"onetwo");
        let [their_read, their_write] = receiver.take().unwrap();
        rustix::io::write(&their_write, b"x").unwrap();
        let mut byte = [0];
        assert_eq!(rustix::io::read(&their_read, &mut byte).unwrap(), 1);
        assert!(Receiver::new(theirs.as_fd()).take::<1>().is_err());
    }
}
