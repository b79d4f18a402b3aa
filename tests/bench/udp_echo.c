/* The plain C echo server over UDP, the peer of the edge's benchmark: recvmmsg, sendmmsg, one thread, epoll. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define DATAGRAMS 64
#define BYTES 2048

static char buffers[DATAGRAMS][BYTES];
static struct sockaddr_in addresses[DATAGRAMS];
static struct iovec slices[DATAGRAMS];
static struct mmsghdr headers[DATAGRAMS];

static void echo_all(int fd) {
    for (;;) {
        for (int i = 0; i < DATAGRAMS; i++) {
            slices[i].iov_len = BYTES;
            headers[i].msg_hdr.msg_namelen = sizeof addresses[i];
        }
        int count = recvmmsg(fd, headers, DATAGRAMS, MSG_DONTWAIT, NULL);
        if (count <= 0) return;
        for (int i = 0; i < count; i++) slices[i].iov_len = headers[i].msg_len;
        for (int sent = 0; sent < count;) {
            int done = sendmmsg(fd, headers + sent, count - sent, 0);
            sent += done > 0 ? done : 1;
        }
        if (count < DATAGRAMS) return;
    }
}

int main(void) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), size = 4 << 20;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (bind(fd, (struct sockaddr *)&address, length) || getsockname(fd, (struct sockaddr *)&address, &length)) return 1;
    printf("127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (int i = 0; i < DATAGRAMS; i++) {
        slices[i].iov_base = buffers[i];
        headers[i].msg_hdr.msg_name = &addresses[i];
        headers[i].msg_hdr.msg_iov = &slices[i];
        headers[i].msg_hdr.msg_iovlen = 1;
    }
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    for (;;) {
        if (epoll_wait(epoll, &event, 1, -1) > 0) echo_all(fd);
    }
}
