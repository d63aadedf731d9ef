/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Control sockets, by the inode that the listener found is bound to: no name is looked at that could be changed in between. */

static __always_inline int on_listener(struct sock *other)
{
	struct unix_sock *peer = (struct unix_sock *)other;
	struct dentry *entry = 0;

	bpf_core_read(&entry, sizeof(entry), &peer->path.dentry);
	/* One without a file has no label. */
	return entry ? on_dentry(entry, GUARD_CONNECT, SOCKET_CONNECT) : 0;
}

SEC("lsm/unix_stream_connect")
int BPF_PROG(socket_connect_peer, struct sock *sock, struct sock *other, struct sock *new)
{
	return on_listener(other);
}

SEC("lsm/unix_may_send")
int BPF_PROG(socket_send_peer, struct socket *sock, struct socket *other)
{
	struct sock *peer = 0;

	bpf_core_read(&peer, sizeof(peer), &other->sk);
	return peer ? on_listener(peer) : 0;
}
