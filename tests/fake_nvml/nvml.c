/* A stand-in for NVIDIA's management library: the functions that nvidia-ml-py looks up and Traindeck calls.
 *
 * What it shows is read from the text file that FAKE_NVML_CONFIG names, anew at every call, so that it can
 * change while a program runs. Without that variable it behaves like a machine whose driver is not loaded.
 *
 *   count = 2                 number of GPUs (default 0)
 *   init = 0                  what nvmlInit returns
 *   all.power = 250000        a value of every GPU; "0.power" of GPU 0, "0/1.name" of its MIG instance 1
 *   0.temperature = !3        the call returns error 3 (not supported); 15: lost, 16: needs a reset
 *   0.handle = !15            GPU 0 gives no handle
 *   0.state = !15             every call on GPU 0 returns error 15
 *   0.processes = 77:1048576,78:-   pid:bytes, "-" for not known; "graphics" likewise
 *   0.mig = 2                 MIG mode is on with two instances
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_GPUS 64
#define MAX_INSTANCES 8
#define EXPORT __attribute__((visibility("default")))

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
       INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9 };

typedef struct { int gpu; int instance; } Device;            /* instance -1: the whole GPU */
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned pid; unsigned long long used; unsigned instance, compute; } Process;

static Device devices[MAX_GPUS][MAX_INSTANCES + 1];
static int initialised = 0;

/* The value of a key, or NULL. */
static const char *look_up(const char *key) {
    static __thread char line[4096];
    const char *path = getenv("FAKE_NVML_CONFIG");
    FILE *file = path ? fopen(path, "r") : NULL;
    char *found = NULL;
    if (!file) return NULL;
    while (!found && fgets(line, sizeof line, file)) {
        char *equals = strstr(line, " = ");
        if (!equals) continue;
        *equals = '\0';
        if (strcmp(line, key) == 0) {
            found = equals + 3;
            found[strcspn(found, "\n")] = '\0';
        }
    }
    fclose(file);
    return found;
}

static const char *value_of(Device *device, const char *field) {
    char key[128];
    const char *found = NULL;
    if (device->instance >= 0) {
        snprintf(key, sizeof key, "%d/%d.%s", device->gpu, device->instance, field);
        found = look_up(key);
    }
    if (!found) {
        snprintf(key, sizeof key, "%d.%s", device->gpu, field);
        found = look_up(key);
    }
    if (!found) {
        snprintf(key, sizeof key, "all.%s", field);
        found = look_up(key);
    }
    return found;
}

static int error_in(const char *value) { return value && value[0] == '!' ? atoi(value + 1) : OK; }

/* Whether the device answers; then the value of the field, or the fallback, in *out. */
static int read_text(Device *device, const char *field, const char *fallback, const char **out) {
    int error;
    if (!initialised) return UNINITIALIZED;
    if ((error = error_in(value_of(device, "state")))) return error;
    *out = value_of(device, field);
    if (!*out) *out = fallback;
    if (!*out) return NOT_SUPPORTED;
    return error_in(*out);
}

static int read_number(Device *device, const char *field, const char *fallback, unsigned long long *out) {
    const char *text;
    int error = read_text(device, field, fallback, &text);
    if (!error) *out = strtoull(text, NULL, 0);
    return error;
}

static int read_unsigned(Device *device, const char *field, const char *fallback, unsigned *out) {
    unsigned long long value;
    int error = read_number(device, field, fallback, &value);
    if (!error) *out = (unsigned)value;
    return error;
}

static unsigned gpu_count(void) {
    const char *text = look_up("count");
    unsigned count = text ? (unsigned)atoi(text) : 0;
    return count > MAX_GPUS ? MAX_GPUS : count;
}

static void default_uuid(Device *device, char *out, unsigned size) {
    if (device->instance >= 0)
        snprintf(out, size, "MIG-%08x-000%d-0000-0000-000000000000", device->gpu, device->instance);
    else
        snprintf(out, size, "GPU-%08x-0000-0000-0000-000000000000", device->gpu);
}

/* By this a test knows that it has this library before it and not a real one. */
EXPORT int fake_nvml(void) { return 1; }

EXPORT int nvmlInitWithFlags(unsigned flags) {
    int error;
    (void)flags;
    if (!getenv("FAKE_NVML_CONFIG")) return DRIVER_NOT_LOADED;
    const char *text = look_up("init");
    if ((error = text ? atoi(text) : OK)) return error;
    for (int gpu = 0; gpu < MAX_GPUS; gpu++)
        for (int at = 0; at <= MAX_INSTANCES; at++) devices[gpu][at] = (Device){gpu, at - 1};
    initialised++;
    return OK;
}

EXPORT int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

EXPORT int nvmlShutdown(void) {
    if (!initialised) return UNINITIALIZED;
    initialised--;
    return OK;
}

EXPORT const char *nvmlErrorString(int error) { return error ? "error of the fake library" : "success"; }

EXPORT int nvmlSystemGetDriverVersion(char *out, unsigned size) {
    snprintf(out, size, "999.0-fake");
    return OK;
}

EXPORT int nvmlDeviceGetCount_v2(unsigned *out) {
    if (!initialised) return UNINITIALIZED;
    *out = gpu_count();
    return OK;
}

EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **out) {
    int error;
    if (!initialised) return UNINITIALIZED;
    if (index >= gpu_count()) return INVALID_ARGUMENT;
    if ((error = error_in(value_of(&devices[index][0], "handle")))) return error;
    *out = &devices[index][0];
    return OK;
}

EXPORT int nvmlDeviceGetName(Device *device, char *out, unsigned size) {
    const char *text;
    int error = read_text(device, "name", device->instance < 0 ? "Fake GPU" : "Fake GPU MIG 1g.10gb", &text);
    if (!error) snprintf(out, size, "%s", text);
    return error;
}

EXPORT int nvmlDeviceGetUUID(Device *device, char *out, unsigned size) {
    char own[80];
    const char *text;
    default_uuid(device, own, sizeof own);
    int error = read_text(device, "uuid", own, &text);
    if (!error) snprintf(out, size, "%s", text);
    return error;
}

EXPORT int nvmlDeviceGetHandleByUUID(const char *uuid, Device **out) {
    char own[80];
    if (!initialised) return UNINITIALIZED;
    for (unsigned gpu = 0; gpu < gpu_count(); gpu++)
        for (int at = 0; at <= MAX_INSTANCES; at++)
            if (nvmlDeviceGetUUID(&devices[gpu][at], own, sizeof own) == OK && strcmp(own, uuid) == 0) {
                *out = &devices[gpu][at];
                return OK;
            }
    return NOT_FOUND;
}

EXPORT int nvmlDeviceGetMemoryInfo(Device *device, Memory *out) {
    int error = read_number(device, "memory_total", "25757220864", &out->total);
    if (!error) error = read_number(device, "memory_used", "1073741824", &out->used);
    if (!error) out->free = out->total - out->used;
    return error;
}

EXPORT int nvmlDeviceGetUtilizationRates(Device *device, Utilization *out) {
    int error = read_unsigned(device, "utilisation", "0", &out->gpu);
    out->memory = 0;
    return error;
}

EXPORT int nvmlDeviceGetTemperature(Device *device, unsigned sensor, unsigned *out) {
    (void)sensor;
    return read_unsigned(device, "temperature", "40", out);
}

EXPORT int nvmlDeviceGetPowerUsage(Device *device, unsigned *out) {
    return read_unsigned(device, "power", "60000", out);
}

EXPORT int nvmlDeviceGetEnforcedPowerLimit(Device *device, unsigned *out) {
    return read_unsigned(device, "power_limit", "350000", out);
}

EXPORT int nvmlDeviceGetClockInfo(Device *device, unsigned kind, unsigned *out) {
    (void)kind;
    return read_unsigned(device, "clock", "1410", out);
}

EXPORT int nvmlDeviceGetCurrentClocksEventReasons(Device *device, unsigned long long *out) {
    return read_number(device, "throttle", "0", out);
}

/* The older name; "old_throttle" lets a test answer under this name alone. */
EXPORT int nvmlDeviceGetCurrentClocksThrottleReasons(Device *device, unsigned long long *out) {
    int error = read_number(device, "old_throttle", NULL, out);
    return error == NOT_SUPPORTED ? read_number(device, "throttle", "0", out) : error;
}

static int list_processes(Device *device, const char *field, unsigned *count, Process *out) {
    const char *text;
    unsigned found = 0, room = *count;
    int error = read_text(device, field, "", &text);
    if (error) return error;
    for (const char *at = text; *at;) {
        char *end;
        Process process = {(unsigned)strtoul(at, &end, 10), 0, 0xffffffff, 0xffffffff};
        if (*end == ':') end++;
        if (*end == '-') {
            process.used = ~0ULL;
            end++;
        } else {
            process.used = strtoull(end, &end, 10);
        }
        if (out && found < room) out[found] = process;
        found++;
        at = *end == ',' ? end + 1 : end + strlen(end);
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : OK;
}

EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(Device *device, unsigned *count, Process *out) {
    return list_processes(device, "processes", count, out);
}

EXPORT int nvmlDeviceGetGraphicsRunningProcesses_v3(Device *device, unsigned *count, Process *out) {
    return list_processes(device, "graphics", count, out);
}

EXPORT int nvmlDeviceGetMigMode(Device *device, unsigned *current, unsigned *pending) {
    const char *text;
    int error = read_text(device, "mig", NULL, &text);
    if (!error) *current = *pending = 1;
    return error;
}

EXPORT int nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned *out) {
    (void)device;
    *out = MAX_INSTANCES - 1;
    return OK;
}

EXPORT int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned index, Device **out) {
    unsigned count = 0;
    int error = read_unsigned(device, "mig", NULL, &count);
    if (error) return error;
    if (index >= count || index >= MAX_INSTANCES) return NOT_FOUND;
    *out = &devices[device->gpu][index + 1];
    return OK;
}

EXPORT int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device *instance, Device **out) {
    *out = &devices[instance->gpu][0];
    return OK;
}
