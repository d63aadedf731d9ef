/* Process 1 of the test containers: executes the lines that come over standard input, which is the channel. Static, no shell. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static void say(const char *text) {
    size_t left = strlen(text);
    while (left) {
        ssize_t n = write(0, text, left);
        if (n > 0) { text += n; left -= (size_t)n; } else usleep(1000);
    }
}

/* An answer: "done", or the number of the error. */
static void outcome(long result) {
    char text[32] = "done\n";
    if (result < 0) snprintf(text, sizeof text, "errno %d\n", errno);
    say(text);
}

static long attempt(const char *what) {
    if (!strcmp(what, "mount")) return mount("none", "/tmp", "tmpfs", 0, 0);
    if (!strcmp(what, "umount")) return umount2("/proc", MNT_DETACH);
    if (!strcmp(what, "unshare-user")) return unshare(CLONE_NEWUSER);
    if (!strcmp(what, "unshare-mount")) return unshare(CLONE_NEWNS);
    if (!strcmp(what, "setns")) return setns(open("/proc/self/ns/net", O_RDONLY), 0);
    if (!strcmp(what, "chroot")) return chroot("/tmp");
    if (!strcmp(what, "pivot-root")) return syscall(SYS_pivot_root, "/tmp", "/tmp");
    if (!strcmp(what, "mknod")) return mknod("/tmp/node", S_IFBLK | 0600, makedev(254, 0));
    if (!strcmp(what, "ptrace")) return ptrace(PTRACE_TRACEME, 0, 0, 0);
    if (!strcmp(what, "bpf")) return syscall(SYS_bpf, 0, 0, 0);
    if (!strcmp(what, "keyctl")) return syscall(SYS_keyctl, 0, 0, 0);
    if (!strcmp(what, "io-uring")) return syscall(425, 1, 0);
    if (!strcmp(what, "userfaultfd")) return syscall(SYS_userfaultfd, 0);
    if (!strcmp(what, "perf")) return syscall(SYS_perf_event_open, 0, 0, -1, -1, 0);
    if (!strcmp(what, "kexec")) return syscall(SYS_kexec_load, 0, 0, 0, 0);
    if (!strcmp(what, "module")) return syscall(SYS_init_module, 0, 0, 0);
    if (!strcmp(what, "handle")) return syscall(SYS_open_by_handle_at, AT_FDCWD, 0, 0);
    if (!strcmp(what, "packet")) return socket(AF_PACKET, SOCK_RAW, 0);
    if (!strcmp(what, "raw")) return socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    if (!strcmp(what, "vsock")) return socket(40, SOCK_STREAM, 0);
    if (!strcmp(what, "hostname")) return sethostname("x", 1);
    if (!strcmp(what, "kill-up")) return kill(-1, 0);
    if (!strncmp(what, "write ", 6)) { int fd = open(what + 6, O_WRONLY); return fd < 0 ? fd : write(fd, "1", 1); }
    if (!strncmp(what, "open ", 5)) return open(what + 5, O_RDONLY);
    errno = ENOTSUP;
    return -1;
}

/* ADDRESS PORT: the byte that whoever is there says, or the number of the error. */
static void reach(char *line) {
    char *port = strchr(line, ' '), said[3] = "?\n";
    if (port) *port++ = 0;
    struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(port ? atoi(port) : 0) };
    struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = v4.sin_port };
    int six = strchr(line, ':') != 0;
    inet_pton(six ? AF_INET6 : AF_INET, line, six ? (void *)&v6.sin6_addr : (void *)&v4.sin_addr);
    int fd = socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    long result = connect(fd, six ? (void *)&v6 : (void *)&v4, six ? sizeof v6 : sizeof v4);
    struct pollfd wait = { .fd = fd, .events = POLLIN };
    int limit = port && strchr(port, ' ') ? atoi(strchr(port, ' ') + 1) : 700;
    errno = ETIMEDOUT;
    result = poll(&wait, 1, limit) == 1 ? read(fd, said, 1) : -1;
    if (result == 1) say(said); else outcome(-1);
    close(fd);
}

static void cat(const char *path) {
    char text[512];
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 2);
    if (n < 0) { outcome(-1); if (fd >= 0) close(fd); return; }
    close(fd);
    text[n] = 0;
    text[strcspn(text, "\n")] = 0;
    strcat(text, "\n");
    say(text);
}

/* PATH KILOBYTES: a file full of one letter. */
static void fill(char *line) {
    char *size = strchr(line, ' ');
    char block[1024];
    memset(block, 'm', sizeof block);
    if (size) *size++ = 0;
    int fd = open(line, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    long result = fd < 0 ? -1 : 0;
    for (int i = 0; result >= 0 && size && i < atoi(size); i++) result = write(fd, block, sizeof block);
    outcome(result);
    if (fd >= 0) close(fd);
}

/* So many children that do nothing; the answer is how many there were. */
static void children(int wanted) {
    int made = 0;
    while (made < wanted) {
        pid_t pid = fork();
        if (pid < 0) break;
        if (!pid) { for (;;) pause(); }
        made++;
    }
    char text[32];
    snprintf(text, sizeof text, "%d\n", made);
    say(text);
}

static void execute(char *line) {
    if (!strncmp(line, "echo ", 5)) { say(line + 5); say("\n"); }
    else if (!strncmp(line, "try ", 4)) outcome(attempt(line + 4));
    else if (!strncmp(line, "cat ", 4)) cat(line + 4);
    else if (!strncmp(line, "fill ", 5)) fill(line + 5);
    else if (!strncmp(line, "reach ", 6)) reach(line + 6);
    else if (!strncmp(line, "children ", 9)) children(atoi(line + 9));
    else if (!strncmp(line, "link ", 5)) outcome(symlink(line + 5, "/tmp/link"));
    else if (!strncmp(line, "fatal ", 6)) { printf("CASEMATE-FATAL %s\n", line + 6); fflush(stdout); _exit(0); }
    else if (!strncmp(line, "exit ", 5)) _exit(atoi(line + 5));
    else if (!strcmp(line, "off")) _exit(0);
    else say("what?\n");
}

int main(void) {
    printf("init runs\n");
    fflush(stdout);
    char line[512];
    size_t length = 0;
    for (;;) {
        char byte;
        if (read(0, &byte, 1) != 1) { length = 0; usleep(1000); continue; }
        if (byte != '\n') { if (length < sizeof line - 1) line[length++] = byte; continue; }
        line[length] = 0;
        length = 0;
        execute(line);
    }
}
