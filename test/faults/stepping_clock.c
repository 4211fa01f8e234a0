/* SPDX-License-Identifier: Apache-2.0
 * Preloaded into a process: its system clock is the real one plus the offset (int64, ns) in the file $STEPPING_CLOCK.
 * Waits until a time of the system clock end by the same clock: otherwise they would all end at once and be made again without a pause,
 * which no step of a real clock does. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile int64_t *offset_ns;
static int (*real_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void set_up(void) {
  real_gettime = dlsym(RTLD_NEXT, "clock_gettime");
  const char *path = getenv("STEPPING_CLOCK");
  int file = path ? open(path, O_RDONLY) : -1;
  if (file >= 0) {
    void *memory = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    if (memory != MAP_FAILED) offset_ns = memory;
  }
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  if (!real_gettime) set_up();
  int result = real_gettime(clock, now);
  if (result == 0 && clock == CLOCK_REALTIME && offset_ns) {
    int64_t total = (int64_t)now->tv_sec * 1000000000 + now->tv_nsec + *offset_ns;
    now->tv_sec = total / 1000000000;
    now->tv_nsec = total % 1000000000;
  }
  return result;
}

int gettimeofday(struct timeval *now, void *zone) {
  struct timespec precise;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &precise);
  now->tv_sec = precise.tv_sec;
  now->tv_usec = precise.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *result) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (result) *result = now.tv_sec;
  return now.tv_sec;
}

/* A deadline by the kernel's clock. Only the system clock counts from 1970; one by the monotonic clock stays. */
static const struct timespec *kernel_deadline(const struct timespec *deadline, struct timespec *space) {
  const time_t year_2001 = 1000000000;
  if (!offset_ns || deadline->tv_sec < year_2001) return deadline;
  int64_t total = (int64_t)deadline->tv_sec * 1000000000 + deadline->tv_nsec - *offset_ns;
  space->tv_sec = total / 1000000000;
  space->tv_nsec = total % 1000000000;
  return space;
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *deadline) {
  static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
  struct timespec space;
  return real(condition, mutex, kernel_deadline(deadline, &space));
}

int pthread_mutex_timedlock(pthread_mutex_t *mutex, const struct timespec *deadline) {
  static int (*real)(pthread_mutex_t *, const struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "pthread_mutex_timedlock");
  struct timespec space;
  return real(mutex, kernel_deadline(deadline, &space));
}

int sem_timedwait(sem_t *semaphore, const struct timespec *deadline) {
  static int (*real)(sem_t *, const struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "sem_timedwait");
  struct timespec space;
  return real(semaphore, kernel_deadline(deadline, &space));
}
