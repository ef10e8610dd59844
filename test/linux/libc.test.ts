import assert from 'node:assert/strict';
import { closeSync, ftruncateSync, readSync, writeSync } from 'node:fs';
import { describe, it } from 'node:test';
import { DmaDependencyError, SystemCallError } from 'dmapool/linux';
import { checkPlatform, EFD_CLOEXEC, EFD_NONBLOCK, libc, MAP_ANONYMOUS, PROT_READ } from '../../src/linux/libc.ts';
import { createMemoryFile } from '../../src/linux/memfd.ts';

/**
 * ioctl_tty(2). FIONREAD: the number of bytes that can be read; of a file, those after its position. TCGETS: terminal
 * settings.
 */
const FIONREAD = 0x541b;
const TCGETS = 0x5401;

void describe('libc through koffi', () => {
  void it('names the package to install when koffi is missing', () => {
    const load = (): never => {
      throw Object.assign(new Error("Cannot find module 'koffi'"), { code: 'MODULE_NOT_FOUND' });
    };
    assert.throws(
      () => libc(load),
      (error) =>
        error instanceof DmaDependencyError &&
        error.code === 'ERR_DMAPOOL_DEPENDENCY' &&
        error.dependency === 'koffi' &&
        error.message.includes('npm install koffi'),
    );
    // The failure is not permanent.
    assert.equal(libc(), libc());
  });

  void it('reports why koffi cannot be loaded', () => {
    const load = (): never => {
      throw new Error('wrong ELF class\nmore');
    };
    assert.throws(() => libc(load), { code: 'ERR_DMAPOOL_DEPENDENCY', message: /\(wrong ELF class\)/ });
    // A value that cannot be converted to a string.
    const odd = (): never => {
      throw Object.create(null) as Error;
    };
    assert.throws(() => libc(odd), { code: 'ERR_DMAPOOL_DEPENDENCY', message: /\(an object\)/ });
  });

  void it('refuses other systems and names them', () => {
    for (const [platform, arch] of [
      ['win32', 'x64'],
      ['linux', 'ia32'],
      ['darwin', 'arm64'],
    ] as const) {
      assert.throws(
        () => {
          checkPlatform(platform, arch);
        },
        new RegExp(`this is ${platform} on ${arch}`),
      );
    }
  });

  void it('converts errno to typed errors', () => {
    const failures: [() => unknown, string, string][] = [
      [() => libc().mmap(0, 0, PROT_READ, MAP_ANONYMOUS), 'mmap', 'EINVAL'],
      [() => libc().mmap(0, 4096, PROT_READ, 2, 9999, 0), 'mmap', 'EBADF'],
      [
        () => {
          libc().munmap(1, 4096);
        },
        'munmap',
        'EINVAL',
      ],
      [() => libc().memfdCreate('x'.repeat(300), 0), 'memfd_create', 'EINVAL'],
      [() => libc().ioctl(9999, FIONREAD, 0, "can't ask"), 'ioctl', 'EBADF'],
      [
        () => {
          libc().addSeals(9999, 1);
        },
        'fcntl',
        'EBADF',
      ],
      [() => libc().eventfd(0, 12345), 'eventfd', 'EINVAL'],
    ];
    for (const [action, syscall, errnoName] of failures) {
      assert.throws(
        action,
        (error) =>
          error instanceof SystemCallError &&
          error.code === 'ERR_DMAPOOL_SYSTEM_CALL' &&
          error.syscall === syscall &&
          error.errnoName === errnoName &&
          error.errno > 0 &&
          error.message.includes(`${syscall}: ${errnoName}, `),
        syscall,
      );
    }
  });

  void it('passes structures and numbers to ioctl', () => {
    const fd = createMemoryFile('dmapool-test', 8192);
    try {
      const count = new Uint8Array(4);
      assert.equal(libc().ioctl(fd, FIONREAD, count, "can't count"), 0);
      assert.equal(new DataView(count.buffer).getInt32(0, true), 8192);
      assert.throws(() => libc().ioctl(fd, TCGETS, 0, "can't ask the terminal"), {
        errnoName: 'ENOTTY',
        message: /^can't ask the terminal: ioctl: ENOTTY/,
      });
    } finally {
      closeSync(fd);
    }
  });

  void it('counts events', () => {
    const fd = libc().eventfd(2, EFD_NONBLOCK | EFD_CLOEXEC);
    try {
      const word = new BigUint64Array([3n]);
      writeSync(fd, word);
      readSync(fd, word);
      assert.equal(word[0], 5n);
      assert.throws(() => readSync(fd, word), { code: 'EAGAIN' });
    } finally {
      closeSync(fd);
    }
  });

  void it('creates memory files of fixed size', () => {
    const fd = createMemoryFile('dmapool-test', 4096);
    try {
      for (const size of [0, 8192]) {
        assert.throws(
          () => {
            ftruncateSync(fd, size);
          },
          { code: 'EPERM' },
        );
      }
    } finally {
      closeSync(fd);
    }
  });
});
