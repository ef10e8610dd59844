/** Commands that may change the block size of a namespace, and namespaces that were opened before. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { NvmeError, type NvmeNamespace } from 'dmapool/drivers/nvme';
import { rejectsAs, rejectsCode } from '../../support/errors.ts';
import { until } from '../../support/until.ts';
import { BLOCK, FakeNvme, type SeenCommand } from './fake-nvme.ts';
import { type Bench, end, start } from './fake-fixture.ts';

const PAGE = 4096;
const STALE = 'ERR_DMAPOOL_NVME_STALE_NAMESPACE';
const FORMAT = { opcode: 0x80, nsid: 1 } as const;
const READ = { opcode: 0x02, nsid: 1 } as const;

/** A controller that records the commands, supports all optional commands, and has blocks of 2^`shift` bytes. */
async function startSeeing(
  formatsAll = false,
): Promise<{ bench: Bench; seen: SeenCommand[]; shift: { value: number } }> {
  const fake = new FakeNvme();
  const shift = { value: 9 };
  fake.onIdentify = (cns, view) => {
    if (cns === 0) view.setUint32(128, shift.value << 16, true);
    if (cns !== 1) return;
    view.setUint16(520, 0xc, true);
    view.setUint8(524, formatsAll ? 1 : 0);
  };
  const seen: SeenCommand[] = [];
  const see = (command: SeenCommand): null => {
    seen.push(command);
    return null;
  };
  const bench = await start(fake);
  Object.assign(fake, { onAdmin: see, fate: see });
  return { bench, seen, shift };
}

function callsOf(disk: NvmeNamespace): Promise<void>[] {
  const memory = { dma: PAGE, size: BLOCK };
  return [
    disk.read(0, new Uint8Array(BLOCK)),
    disk.write(0, new Uint8Array(BLOCK)),
    disk.read(0, new Uint8Array(8 * 1024 * 1024)),
    disk.readDma(0, memory),
    disk.readDmaBulk([0], [memory]),
    disk.writeDma(0, memory),
    disk.writeZeroes(0, 1),
    disk.deallocate([{ lba: 0, blocks: 1 }]),
    disk.flush(),
  ];
}

void describe('a namespace that was opened before', () => {
  const changes = [
    ['a Format NVM', FORMAT, undefined],
    ['a Format NVM of all', { opcode: 0x80, nsid: 0xffff_ffff }, undefined],
    ['its deletion', { opcode: 0x0d, nsid: 1, cdw10: 1 }, undefined],
    ['its attachment', { opcode: 0x15, nsid: 1 }, new Uint8Array(PAGE)],
  ] as const;
  for (const [name, command, buffer] of changes) {
    void it(`${name} accepts no command after it, and can be opened anew`, async () => {
      const { bench, seen, shift } = await startSeeing();
      const { nvme, disk } = bench;
      const other = await nvme.namespace(1);
      seen.length = 0;
      shift.value = 12;
      const changed = nvme.admin(command, buffer);
      // From the call on.
      for (const call of [...callsOf(disk), ...callsOf(other)]) await rejectsAs(NvmeError, STALE, call);
      await changed;
      for (const call of callsOf(disk)) await rejectsAs(NvmeError, STALE, call);
      assert.deepEqual(
        seen.map(({ opcode }) => opcode),
        [command.opcode],
      );
      const anew = await nvme.namespace(1);
      assert.equal(anew.blockSize, PAGE);
      await anew.flush();
      assert.equal(disk.blockSize, BLOCK);
      await end(bench);
    });
  }

  void it('a Format NVM of another namespace does not affect it, unless the command formats all', async () => {
    for (const formatsAll of [false, true]) {
      const { bench } = await startSeeing(formatsAll);
      const { nvme, disk } = bench;
      await nvme.admin({ opcode: 0x0d, cdw10: 0 }, new Uint8Array(PAGE));
      await nvme.admin({ opcode: 0x02, nsid: 1, cdw10: 127 << 16 }, new Uint8Array(512));
      await disk.read(0, new Uint8Array(BLOCK));
      await nvme.admin({ opcode: 0x80, nsid: 2 });
      const read = disk.read(0, new Uint8Array(BLOCK));
      if (formatsAll) await rejectsAs(NvmeError, STALE, read);
      else await read;
      await end(bench);
    }
  });

  void it('a change of its block size by another host makes it stale once it is opened anew', async () => {
    const { bench, shift } = await startSeeing();
    const { nvme, disk } = bench;
    shift.value = 12;
    await nvme.namespace(1);
    await rejectsAs(NvmeError, STALE, disk.read(0, new Uint8Array(BLOCK)));
    await end(bench);
  });
});

void describe('a Format NVM', () => {
  void it('waits for the transfers of its namespace, and calls that depend on the format wait for it', async () => {
    const { bench, seen, shift } = await startSeeing();
    const { fake, nvme, disk } = bench;
    const see = fake.fate;
    fake.fate = (command) => {
      see(command);
      return 'hang';
    };
    const first = disk.read(0, new Uint8Array(BLOCK));
    await until('the fake holds it', () => fake.hung.length === 1);
    let formatted = false;
    const format = nvme.admin(FORMAT).then(() => (formatted = true));
    const waits = [
      rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', nvme.io(READ, new Uint8Array(BLOCK))),
      nvme.io(READ, new Uint8Array(PAGE)),
      nvme.namespace(1).then(({ blockSize }) => {
        assert.deepEqual([blockSize, formatted], [PAGE, true]);
      }),
    ];
    await new Promise((resolve) => setTimeout(resolve, 50));
    assert.deepEqual(
      seen.map(({ opcode }) => opcode),
      [READ.opcode],
    );
    fake.fate = see;
    shift.value = 12;
    fake.finish(fake.hung.pop()!);
    await Promise.all([first, format, ...waits]);
    assert.deepEqual(
      seen.map(({ opcode }) => opcode).filter((opcode) => opcode !== 0x06),
      [READ.opcode, FORMAT.opcode, READ.opcode],
    );
    await end(bench);
  });

  void it('that begins during the Identify of a namespace causes a second Identify', async () => {
    const { bench, seen, shift } = await startSeeing();
    const { fake, nvme } = bench;
    const see = fake.onAdmin;
    fake.onAdmin = (command) => {
      see(command);
      return command.opcode === 0x06 ? 'hang' : null;
    };
    const opening = nvme.namespace(1);
    await until('the fake holds it', () => fake.hung.length === 1);
    const format = nvme.admin(FORMAT);
    fake.onAdmin = see;
    // The answer has the data from before the format.
    fake.complete(fake.hung.pop()!, 0);
    shift.value = 12;
    await format;
    assert.equal((await opening).blockSize, PAGE);
    assert.equal(seen.filter(({ opcode }) => opcode === 0x06).length, 2);
    await end(bench);
  });

  void it('that waits is ended by a close, and so are the calls that wait for it', async () => {
    const { bench } = await startSeeing();
    const { fake, nvme, disk, pci } = bench;
    fake.fate = () => 'hang';
    const codes = [disk.read(0, new Uint8Array(BLOCK)), nvme.admin(FORMAT), nvme.namespace(1)].map((promise) =>
      rejectsCode('ERR_DMAPOOL_NVME_CLOSED', promise),
    );
    await until('the fake holds it', () => fake.hung.length === 1);
    await nvme.close();
    await Promise.all(codes);
    assert.deepEqual(fake.faults, []);
    await pci.close();
  });
});
