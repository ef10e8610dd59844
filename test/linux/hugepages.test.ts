/** The kernel's files on hugepages and frames; hugepages themselves are tested in hugetlb.test.ts. */
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { HugepageError, HugetlbMemory } from 'dmapool/linux';
import { hugepagePools, sizeName, type HugepageFolders } from '../../src/linux/hugepages.ts';
import { frameOf, Pagemap } from '../../src/linux/pagemap.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

void describe('hugepages of the system', () => {
  function folders(t: TestContext): HugepageFolders {
    const root = temporaryFolder(t);
    const write = (folder: string, values: Record<string, number>): void => {
      mkdirSync(join(root, folder), { recursive: true });
      for (const [name, value] of Object.entries(values)) writeFileSync(join(root, folder, name), `${String(value)}\n`);
    };
    write('all/hugepages-2048kB', { nr_hugepages: 10, free_hugepages: 7, resv_hugepages: 3 });
    write('all/hugepages-1048576kB', { nr_hugepages: 1, free_hugepages: 1, resv_hugepages: 0 });
    write('all/other', {});
    write('node1/hugepages-2048kB', { nr_hugepages: 5, free_hugepages: 5 });
    return { all: join(root, 'all'), node: (node) => join(root, `node${String(node)}`) };
  }

  void it('are listed with the number that is free and not reserved, largest first', (t) => {
    const where = folders(t);
    assert.deepEqual(
      hugepagePools(-1, where).map(({ size, total, free }) => ({ size, total, free })),
      [
        { size: 2 ** 30, total: 1, free: 1 },
        { size: 2 ** 21, total: 10, free: 4 },
      ],
    );
    assert.deepEqual(hugepagePools(1, where), [
      { size: 2 ** 21, total: 5, free: 5, file: join(where.node(1), 'hugepages-2048kB', 'nr_hugepages') },
    ]);
    assert.deepEqual(hugepagePools(2, where), []);
  });

  void it('have readable sizes', () => {
    assert.deepEqual([1, 1536, 2 ** 16, 2 ** 21, 3 * 2 ** 30, 2 ** 50].map(sizeName), [
      ...['1 bytes', '1536 bytes', '64 KiB', '2 MiB', '3 GiB', '1024 TiB'],
    ]);
  });

  void it('that exceed the free ones are refused, with the command that reserves them', () => {
    // More than any machine has.
    assert.throws(
      () => new HugetlbMemory({ size: 2 ** 45 }),
      (error) =>
        error instanceof HugepageError &&
        error.code === 'ERR_DMAPOOL_NO_HUGEPAGES' &&
        /^32 TiB of hugepages needed, but only .* are free; reserve more, as root: echo \d+ > \/sys\/kernel\/mm\/hugepages\/hugepages-\d+kB\/nr_hugepages$/.test(
          error.message,
        ),
    );
    assert.throws(() => new HugetlbMemory({ size: 4096, node: 1023 }), {
      code: 'ERR_DMAPOOL_NO_HUGEPAGES',
      message: /NUMA node 1023/,
    });
  });

  void it('are refused for invalid options', () => {
    for (const options of [null, {}, { size: 0 }, { size: 1.5 }, { size: '2M' }, { size: 2 ** 47 }]) {
      assert.throws(() => new HugetlbMemory(options as never), { code: 'ERR_DMAPOOL_INVALID_ARGUMENT' });
    }
    for (const wrong of [{ node: -2 }, { node: 0.5 }, { node: 2000 }, { hugepageSize: 4096 }, { hugepageSize: NaN }]) {
      const options = { size: 4096, ...wrong };
      assert.throws(() => new HugetlbMemory(options), { code: 'ERR_DMAPOOL_INVALID_ARGUMENT' }, JSON.stringify(wrong));
    }
  });
});

void describe('an entry of pagemap', () => {
  const present = 0x8000_0000;

  void it('holds 55 bits of frame number', () => {
    assert.equal(frameOf(0x1234, present, 0), 0x1234);
    assert.equal(frameOf(0xffff_ffff, present, 0), 0xffff_ffff);
    // The bits between frame number and flags have other meanings.
    assert.equal(frameOf(5, present + 0x1f80_0000 + 3, 0), 3 * 2 ** 32 + 5);
  });

  void it('is refused where no page is present, or its frame is hidden', () => {
    const refused = (low: number, high: number, message: RegExp): void => {
      assert.throws(() => frameOf(low, high, 0x5000), { code: 'ERR_DMAPOOL_FRAMES_HIDDEN', message });
    };
    refused(0, 0, /^no page is present at address 0x5000: /);
    refused(7, 0, /no page is present/);
    refused(7, present + 0x4000_0000, /no page is present/);
    refused(0, present, /shows no frame numbers: .*CAP_SYS_ADMIN.*VFIO/);
  });

  void it('is refused when the file is missing or ends before it', () => {
    assert.throws(() => new Pagemap('/does/not/exist'), { code: 'ERR_DMAPOOL_FRAMES_HIDDEN' });
    const pagemap = new Pagemap('/dev/null');
    assert.throws(() => pagemap.physicalAddress(4096), { code: 'ERR_DMAPOOL_FRAMES_HIDDEN', message: /ends before/ });
    pagemap.close();
  });
});
