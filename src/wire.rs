//! The wire format (docs/protocol.md): WebSocket frames (RFC 6455) of capsules (RFC 9297).
