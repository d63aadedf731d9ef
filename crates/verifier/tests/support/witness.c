/* Process 1 of a machine whose boot is appraised: hands out the firmware's event log, then carries commands to the TPM.
 * Over the second serial line: MARK, length of the log (4 bytes, big-endian), log; then TPM commands and responses as they are. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

enum { HEADER = 10, MAX_MESSAGE = 4096, MAX_LOG = 768 << 10 };
static const char MARK[] = "\nCASEMATE-WITNESS\n";

/* Whatever fails ends the machine, and with it the test's wait. */
static size_t must(const char *what, ssize_t result) {
    if (result >= 0) return (size_t)result;
    fprintf(stderr, "witness: %s: %s\n", what, strerror(errno));
    reboot(RB_POWER_OFF);
    exit(1);
}

static void mounted(const char *kind, const char *at) {
    mkdir(at, 0755);
    must(at, mount(kind, at, kind, 0, NULL));
}

static void send_all(int line, const void *bytes, size_t size) {
    for (size_t sent = 0; sent < size;) sent += must("write to the line", write(line, (const char *)bytes + sent, size - sent));
}

static void receive(int line, uint8_t *bytes, size_t size) {
    for (size_t got = 0; got < size;) got += must("read from the line", read(line, bytes + got, size - got));
}

static int raw_line(const char *path) {
    int line = must(path, open(path, O_RDWR | O_NOCTTY));
    struct termios settings;
    must("terminal settings", tcgetattr(line, &settings));
    cfmakeraw(&settings);
    must("terminal settings", tcsetattr(line, TCSANOW, &settings));
    return line;
}

static void send_log(int line) {
    static uint8_t log[MAX_LOG];
    int file = must("event log", open("/sys/kernel/security/tpm0/binary_bios_measurements", O_RDONLY));
    size_t size = 0;
    for (size_t more = 1; more > 0; size += more) more = must("event log", read(file, log + size, MAX_LOG - size));
    uint8_t length[4] = {size >> 24, size >> 16, size >> 8, size};
    send_all(line, MARK, strlen(MARK));
    send_all(line, length, sizeof length);
    send_all(line, log, size);
}

int main(void) {
    mounted("devtmpfs", "/dev");
    freopen("/dev/console", "w", stderr);
    mounted("sysfs", "/sys");
    mounted("securityfs", "/sys/kernel/security");
    int line = raw_line("/dev/ttyS1"), tpm = must("/dev/tpm0", open("/dev/tpm0", O_RDWR));
    send_log(line);
    for (;;) {
        uint8_t message[MAX_MESSAGE];
        receive(line, message, HEADER);
        size_t size = (size_t)message[2] << 24 | message[3] << 16 | message[4] << 8 | message[5];
        if (size < HEADER || size > MAX_MESSAGE) errno = EMSGSIZE, must("command", -1);
        receive(line, message + HEADER, size - HEADER);
        must("command", write(tpm, message, size));
        send_all(line, message, must("response", read(tpm, message, MAX_MESSAGE)));
    }
}
