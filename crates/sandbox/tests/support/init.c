/* Process 1 of the test guests: executes the lines that come over the guest channel. Static, no shell, no files. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <net/route.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* The host's end: a virtio-serial port or, where there is none, a connection to our vsock port. */
static int port = -1, listener = -1;

static void say(const char *text) {
    while (*text) {
        ssize_t n = write(port, text, strlen(text));
        if (n > 0) text += n;
        else if (listener >= 0) return;
        else usleep(1000);
    }
}

static int read_file(const char *path, char *buffer, size_t size) {
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, buffer, size - 1);
    if (fd >= 0) close(fd);
    buffer[n > 0 ? n : 0] = 0;
    return n >= 0;
}

static void open_vsock(void) {
    struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = 5200 };
    if (listener < 0) {
        int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (fd < 0) return;
        if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4)) { close(fd); return; }
        listener = fd;
    }
    port = accept(listener, 0, 0);
}

static void open_port(void) {
    char path[300], name[64];
    while (port < 0) {
        DIR *dir = opendir("/sys/class/virtio-ports");
        struct dirent *entry;
        while (dir && (entry = readdir(dir))) {
            snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
            if (!read_file(path, name, sizeof name) || strncmp(name, "casemate.guest", 14)) continue;
            snprintf(path, sizeof path, "/dev/%s", entry->d_name);
            port = open(path, O_RDWR);
        }
        if (dir) closedir(dir);
        if (port < 0) open_vsock();
        if (port < 0) usleep(1000);
    }
}

/* One line: NAME=SERIAL:MAJOR:MINOR for each disk. */
static void disks(void) {
    char answer[2048] = "", path[300], serial[64], number[64], part[200];
    struct dirent **list;
    int count = scandir("/sys/block", &list, 0, alphasort);
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "/sys/block/%s/serial", list[i]->d_name);
        if (strncmp(list[i]->d_name, "vd", 2) || !read_file(path, serial, sizeof serial)) continue;
        snprintf(path, sizeof path, "/sys/block/%s/dev", list[i]->d_name);
        read_file(path, number, sizeof number);
        number[strcspn(number, "\n")] = 0;
        snprintf(part, sizeof part, "%.20s=%.20s:%.20s ", list[i]->d_name, serial, number);
        strcat(answer, part);
    }
    say(answer);
    say("\n");
}

/* Fills memory with the bytes 0x80..0xff of the marker that no file of the host holds: each byte has its top bit set. */
static void mark(unsigned megabytes, const char *text) {
    unsigned char marker[16];
    for (int i = 0; i < 16; i++) marker[i] = (unsigned char)text[i % strlen(text)] | 0x80;
    size_t size = (size_t)megabytes << 20;
    unsigned char *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (size_t at = 0; memory != MAP_FAILED && at < size; at += 16) memcpy(memory + at, marker, 16);
    say(memory == MAP_FAILED ? "no memory\n" : "marked\n");
}

static void write_scratch(const char *disk) {
    char path[64], block[4096];
    snprintf(path, sizeof path, "/dev/%.20s", disk);
    memset(block, 'x', sizeof block);
    int fd = open(path, O_RDWR);
    int ok = fd >= 0 && write(fd, block, sizeof block) == sizeof block && fsync(fd) == 0;
    if (fd >= 0) close(fd);
    say(ok ? "written\n" : "refused\n");
}

static void loud(unsigned kilobytes) {
    char line[1025];
    memset(line, 'l', sizeof line);
    line[1023] = '\n';
    for (unsigned i = 0; i < kilobytes; i++) (void)!write(1, line, 1024);
    say("said\n");
}

static struct sockaddr_in inet(const char *address, int port_number) {
    struct sockaddr_in name = { .sin_family = AF_INET, .sin_port = htons(port_number) };
    inet_pton(AF_INET, address, &name.sin_addr);
    return name;
}

static int add_route(int fd, struct sockaddr_in to, const char *mask, const char *gateway) {
    struct rtentry route = { .rt_flags = RTF_UP | (gateway ? RTF_GATEWAY : RTF_HOST), .rt_dev = (char *)"eth0" };
    struct sockaddr_in netmask = inet(mask, 0), by = inet(gateway ? gateway : "0.0.0.0", 0);
    memcpy(&route.rt_dst, &to, sizeof to);
    memcpy(&route.rt_genmask, &netmask, sizeof netmask);
    memcpy(&route.rt_gateway, &by, sizeof by);
    return ioctl(fd, SIOCADDRT, &route);
}

/* The card, its address, and the node as the way to everybody. */
static void network(const char *own, const char *node) {
    struct ifreq request = { .ifr_name = "eth0" };
    struct sockaddr_in address = inet(own, 0), mask = inet("255.255.255.255", 0);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    memcpy(&request.ifr_addr, &address, sizeof address);
    int failed = fd < 0 || ioctl(fd, SIOCSIFADDR, &request);
    memcpy(&request.ifr_netmask, &mask, sizeof mask);
    failed |= ioctl(fd, SIOCSIFNETMASK, &request);
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    failed |= ioctl(fd, SIOCSIFFLAGS, &request);
    failed |= add_route(fd, inet(node, 0), "255.255.255.255", 0) || add_route(fd, inet("0.0.0.0", 0), "0.0.0.0", node);
    close(fd);
    say(failed ? "no network\n" : "up\n");
}

static void send_word(const char *address, int port_number, const char *word) {
    struct sockaddr_in to = inet(address, port_number);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    int sent = fd >= 0 && sendto(fd, word, strlen(word), 0, (struct sockaddr *)&to, sizeof to) == (ssize_t)strlen(word);
    close(fd);
    say(sent ? "sent\n" : "not sent\n");
}

static void off(void) {
    sync();
    reboot(RB_POWER_OFF);
}

static void execute(char *line) {
    char first[16], second[16];
    int number;
    if (!strncmp(line, "echo ", 5)) { say(line + 5); say("\n"); }
    else if (!strcmp(line, "disks")) disks();
    else if (!strncmp(line, "mark ", 5)) mark(atoi(line + 5), strchr(line + 5, ' ') + 1);
    else if (!strncmp(line, "write ", 6)) write_scratch(line + 6);
    else if (!strncmp(line, "loud ", 5)) loud(atoi(line + 5));
    else if (sscanf(line, "net %15s %15s", first, second) == 2) network(first, second);
    else if (sscanf(line, "send %15s %d %15s", first, &number, second) == 3) send_word(first, number, second);
    else if (!strncmp(line, "fatal ", 6)) { printf("CASEMATE-FATAL %s\n", line + 6); fflush(stdout); off(); }
    else if (!strncmp(line, "pcr ", 4)) {
        char path[80], value[128];
        snprintf(path, sizeof path, "/sys/class/tpm/tpm0/pcr-sha256/%d", atoi(line + 4));
        say(read_file(path, value, sizeof value) && value[0] ? value : "none\n");
    }
    else if (!strcmp(line, "panic")) exit(1);
    else if (!strcmp(line, "off")) off();
    else say("what?\n");
}

int main(void) {
    mount("dev", "/dev", "devtmpfs", 0, 0);
    mount("proc", "/proc", "proc", 0, 0);
    mount("sys", "/sys", "sysfs", 0, 0);
    int console = open("/dev/console", O_RDWR);
    for (int fd = 0; fd < 3; fd++) dup2(console, fd);
    printf("init runs\n");
    fflush(stdout);
    open_port();
    char line[512];
    size_t length = 0;
    for (;;) {
        char byte;
        /* Nobody is connected: a read of nothing. */
        if (read(port, &byte, 1) != 1) {
            length = 0;
            if (listener >= 0) { close(port); port = -1; open_port(); }
            else usleep(1000);
            continue;
        }
        if (byte != '\n') { if (length < sizeof line - 1) line[length++] = byte; continue; }
        line[length] = 0;
        length = 0;
        execute(line);
    }
}
