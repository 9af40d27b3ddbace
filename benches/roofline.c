/* roofline: how fast a TUN device can be carried over TCP when nothing else is done.
 *
 *   roofline TUN listen PORT [plain]            waits for the other end
 *   roofline TUN connect ADDRESS PORT [plain]
 *
 * The device hands out super-packets of up to 64 KiB (IFF_VNET_HDR, TUNSETOFFLOAD); each goes over one TCP connection
 * with its length in front. There is no WebSocket, no translation, no queue and no stage: addresses, routes and NAT are
 * the kernel's, set by whoever starts this. "plain" is the same without super-packets. One thread a direction. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    LENGTH_BYTES = 4,
    /* A super-packet and the virtio-net header that the kernel puts in front. */
    FRAME_BYTES_MAX = 65536 + 64,
    /* Several frames fit, so that one call takes many small ones. */
    RECEIVE_BYTES = 4 * FRAME_BYTES_MAX,
};

static int tun, peer;

static int failed(const char *what) {
    fprintf(stderr, "roofline: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int open_tun(const char *name, int plain) {
    int fd = open("/dev/net/tun", O_RDWR);
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI | (plain ? 0 : IFF_VNET_HDR)};
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0) failed("opening the TUN device");
    if (!plain && ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN) < 0)
        failed("TUNSETOFFLOAD");
    return fd;
}

static int open_peer(int listens, const char *address, const char *port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    int yes = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    if (!listens) {
        if (inet_pton(AF_INET, address, &at.sin_addr) != 1) failed("reading the address");
        if (connect(fd, (struct sockaddr *)&at, sizeof at) < 0) failed("connecting");
    } else {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
        if (bind(fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(fd, 1) < 0) failed("listening");
        fprintf(stderr, "listening\n");
        if ((fd = accept(fd, NULL, NULL)) < 0) failed("accepting");
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    return fd;
}

static void *tun_to_peer(void *unused) {
    static uint8_t frame[LENGTH_BYTES + FRAME_BYTES_MAX];
    for (;;) {
        ssize_t packet = read(tun, frame + LENGTH_BYTES, FRAME_BYTES_MAX);
        if (packet < 0) {
            if (errno == EINTR || errno == EBADFD) { usleep(1000); continue; } /* the device is not up yet */
            failed("reading the device");
        }
        uint32_t length = htonl((uint32_t)packet);
        memcpy(frame, &length, LENGTH_BYTES);
        for (ssize_t sent = 0, all = packet + LENGTH_BYTES; sent < all;) {
            ssize_t some = write(peer, frame + sent, all - sent);
            if (some < 0 && errno != EINTR) failed("writing to the peer");
            sent += some > 0 ? some : 0;
        }
    }
    return unused;
}

static void peer_to_tun(void) {
    static uint8_t bytes[RECEIVE_BYTES];
    size_t held = 0;
    for (;;) {
        ssize_t some = read(peer, bytes + held, sizeof bytes - held);
        if (some == 0) exit(0);
        if (some < 0 && errno != EINTR) failed("reading from the peer");
        held += some > 0 ? some : 0;
        size_t at = 0;
        for (uint32_t length; held - at >= LENGTH_BYTES; at += LENGTH_BYTES + length) {
            memcpy(&length, bytes + at, LENGTH_BYTES);
            if ((length = ntohl(length)) > FRAME_BYTES_MAX) { errno = EPROTO; failed("the peer's frame"); }
            if (held - at - LENGTH_BYTES < length) break;
            /* What the kernel cannot take is lost, as on any link. */
            if (write(tun, bytes + at + LENGTH_BYTES, length) < 0 && errno == EBADF) failed("writing to the device");
        }
        memmove(bytes, bytes + at, held -= at);
    }
}

int main(int count, char **words) {
    int listens = count >= 4 && strcmp(words[2], "listen") == 0, named = listens ? 4 : 5;
    if (count < named || count > named + 1) return fprintf(stderr, "see the first lines of roofline.c\n"), 2;
    tun = open_tun(words[1], count > named);
    peer = open_peer(listens, words[3], words[named - 1]);
    pthread_t other;
    if (pthread_create(&other, NULL, tun_to_peer, NULL) != 0) failed("starting a thread");
    peer_to_tun();
}
