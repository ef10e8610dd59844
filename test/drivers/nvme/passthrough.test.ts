/** Passthrough commands: their transfer is checked before submission, and they have their own time-out. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { NvmeError, NvmeTimeoutError } from 'dmapool/drivers/nvme';
import { rejectsAs, rejectsCode, throwsCode } from '../../support/errors.ts';
import { until } from '../../support/until.ts';
import { BLOCK, FakeNvme, type SeenCommand } from './fake-nvme.ts';
import { end, start } from './fake-fixture.ts';

const PAGE = 4096;
const bytes = (length: number): Uint8Array => new Uint8Array(length);

void describe('a passthrough command', () => {
  void it('needs a buffer of exactly the transferred size', async () => {
    const bench = await start();
    const { fake, nvme } = bench;
    const seen: SeenCommand[] = [];
    fake.onAdmin = (command) => {
      seen.push(command);
      return null;
    };
    fake.fate = (command) => {
      seen.push(command);
      return null;
    };
    const refused: (() => Promise<number>)[] = [
      // No buffer, where bits 1:0 of the opcode require one.
      () => nvme.io({ opcode: 0x01, nsid: 1 }),
      () => nvme.io({ opcode: 0x02, nsid: 1 }),
      () => nvme.io({ opcode: 0x09, nsid: 1 }),
      () => nvme.io({ opcode: 0x82, nsid: 1 }),
      () => nvme.admin({ opcode: 0x02 }),
      () => nvme.admin({ opcode: 0x06 }),
      () => nvme.admin({ opcode: 0xc3 }),
      // A buffer, where these bits exclude one.
      () => nvme.io({ opcode: 0x00, nsid: 1 }, bytes(BLOCK)),
      () => nvme.io({ opcode: 0x08, nsid: 1 }, bytes(BLOCK)),
      () => nvme.admin({ opcode: 0x80, nsid: 1 }, bytes(BLOCK)),
      // Another length than the command has.
      () => nvme.admin({ opcode: 0x06, cdw10: 1 }, bytes(512)),
      () => nvme.admin({ opcode: 0x02, cdw10: 127 << 16 }, bytes(508)),
      () => nvme.admin({ opcode: 0x02, cdw10: 1 << 16, cdw11: 1 }, bytes(8)),
      () => nvme.admin({ opcode: 0x11, cdw10: 1023 }, bytes(PAGE - 4)),
      () => nvme.admin({ opcode: 0x82, cdw11: PAGE }, bytes(512)),
      () => nvme.admin({ opcode: 0x0a, cdw10: 0x07 }, bytes(PAGE)),
      () => nvme.admin({ opcode: 0x0a, cdw10: 0x0e }, bytes(PAGE)),
      () => nvme.admin({ opcode: 0x0a, cdw10: 0x03 }),
      () => nvme.io({ opcode: 0x09, nsid: 1, cdw10: 1 }, bytes(16)),
    ];
    for (const call of refused) throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', call);
    for (const opcode of [0x01, 0x02, 0x05]) {
      const blocks = { opcode, nsid: 1, cdw12: 15 };
      const error = await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', nvme.io(blocks, bytes(PAGE)));
      assert.match(error.message, /buffer\.length.*8192 bytes/);
      await nvme.io(blocks, bytes(2 * PAGE));
    }
    await nvme.admin({ opcode: 0x02, cdw10: 127 << 16 }, bytes(512));
    await nvme.admin({ opcode: 0x0a, cdw10: 0x07 });
    await nvme.admin({ opcode: 0x0a, cdw10: 0x0303 });
    await nvme.admin({ opcode: 0x0a, cdw10: 0x0e }, bytes(8));
    assert.equal(seen.length, 7, 'no other command was submitted');
    for (const { opcode, prp1 } of seen) assert.ok(opcode === 0x0a || prp1 !== 0, String(opcode));
    await end(bench);
  });

  void it('is checked against the current block size of its namespace', async () => {
    const fake = new FakeNvme();
    const bench = await start(fake);
    const { nvme } = bench;
    const read = { opcode: 0x02, nsid: 1, cdw12: 0 };
    await nvme.io(read, bytes(BLOCK));
    // Formatted: the fake still has blocks of 512 bytes, and transfers no more.
    fake.onIdentify = (cns, view) => {
      if (cns === 0) view.setUint32(128, 12 << 16, true);
    };
    await nvme.admin({ opcode: 0x80, nsid: 1 });
    await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', nvme.io(read, bytes(BLOCK)));
    await nvme.io(read, bytes(PAGE));
    await rejectsAs(NvmeError, 'ERR_DMAPOOL_NVME_NO_NAMESPACE', nvme.io({ ...read, nsid: 7 }, bytes(BLOCK)));
    await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', nvme.io({ ...read, nsid: 0xffff_ffff }, bytes(BLOCK)));
    // Metadata would be transferred at address 0.
    fake.onIdentify = (_cns, view) => {
      view.setUint32(128, (9 << 16) | 8, true);
    };
    await nvme.admin({ opcode: 0x80, nsid: 1 });
    await rejectsAs(NvmeError, 'ERR_DMAPOOL_NVME_UNSUPPORTED', nvme.io(read, bytes(BLOCK)));
    await end(bench);
  });

  void it('cannot delete the driver’s queues, nor give the controller memory for good', async () => {
    const bench = await start();
    const { nvme } = bench;
    for (const command of [
      { opcode: 0x00, cdw10: 1 },
      { opcode: 0x01, cdw10: 9 },
      { opcode: 0x04, cdw10: 1 },
      { opcode: 0x05, cdw10: 9 },
      { opcode: 0x0c },
      { opcode: 0x7c },
      { opcode: 0x09, cdw10: 0x0d, cdw11: 1 },
      { opcode: 0x09, cdw10: 0x8000_000d, cdw11: 1 },
    ]) {
      throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => nvme.admin(command));
      throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => nvme.admin(command, bytes(PAGE)));
    }
    await end(bench);
  });

  void it('that transfers less than its buffer leaves the rest unchanged', async () => {
    const bench = await start();
    const { nvme, disk } = bench;
    await disk.write(0, bytes(PAGE).fill(0x5a));
    const buffer = bytes(PAGE).fill(7);
    await nvme.admin({ opcode: 0xc2 }, buffer);
    assert.ok(buffer.every((byte) => byte === 7));
    await end(bench);
  });
});

void describe('the time-out of a command', () => {
  void it('is long for a Format NVM, whatever the one of other commands', async () => {
    const bench = await start(new FakeNvme(), { timeout: 50 });
    const { fake, nvme } = bench;
    fake.onAdmin = ({ opcode }) => (opcode === 0x80 ? 'hang' : null);
    const formatted = nvme.admin({ opcode: 0x80, nsid: 1 });
    await until('the fake formats', () => fake.hung.length === 1);
    await sleep(500);
    assert.deepEqual([nvme.statistics().resets, nvme.statistics().timeouts], [0, 0]);
    fake.complete(fake.hung.splice(0)[0]!, 0);
    await formatted;
    await end(bench);
  });

  void it('can be given with the command, and may be shorter than that of the others', async () => {
    const fake = new FakeNvme();
    fake.onIdentify = (cns, view) => {
      if (cns === 1) view.setUint16(520, 0xc, true);
    };
    const bench = await start(fake, { timeout: 60_000 });
    const { nvme, disk } = bench;
    fake.fate = () => 'hang';
    // The watchdog has a long time to go when the short time-outs are added.
    const long = disk.read(0, bytes(BLOCK));
    await until('the fake holds it', () => fake.hung.length === 1);
    for (const late of [
      disk.flush({ timeout: 50 }),
      disk.deallocate([{ lba: 0, blocks: 1 }], { timeout: 50 }),
      disk.writeZeroes(0, 1, { timeout: 50 }),
      nvme.io({ opcode: 0x00, nsid: 1 }, undefined, { timeout: 50 }),
    ]) {
      const error = await rejectsAs(NvmeError, 'ERR_DMAPOOL_NVME_TIMEOUT', late);
      assert.match(error.message, /took longer than 50 ms and was aborted/);
    }
    assert.equal(nvme.statistics().resets, 0);
    fake.complete(fake.hung.splice(0)[0]!, 0);
    await long;
    fake.onAdmin = ({ opcode }) => (opcode === 0xc0 ? 'hang' : null);
    const error = await rejectsAs(
      NvmeError,
      'ERR_DMAPOOL_NVME_RESET',
      nvme.admin({ opcode: 0xc0 }, undefined, { timeout: 50 }),
    );
    assert.ok(error.cause instanceof NvmeTimeoutError);
    fake.fate = () => null;
    await end(bench);
  });

  void it('is a number of milliseconds', async () => {
    const bench = await start();
    const { nvme, disk } = bench;
    for (const timeout of [0, -1, 0.5, NaN, 2 ** 31, '1' as never]) {
      throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => nvme.io({ opcode: 0, nsid: 1 }, undefined, { timeout }));
      throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => nvme.admin({ opcode: 0x80 }, undefined, { timeout }));
      await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', disk.flush({ timeout }));
      await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', disk.writeZeroes(0, 1, { timeout }));
      await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', disk.deallocate([{ lba: 0, blocks: 1 }], { timeout }));
    }
    await end(bench);
  });
});
