/** The user's buffers change while the driver uses them: moved to another thread, or shrunk. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { NvmeNamespace } from 'dmapool/drivers/nvme';
import { rejectsCode } from '../../support/errors.ts';
import { BLOCK } from './fake-nvme.ts';
import { type Bench, end, start } from './fake-fixture.ts';
import { until } from '../../support/until.ts';

/** A buffer of `blocks` blocks and the operation that invalidates it, by the operation's name. */
const ways: Readonly<Record<string, (blocks: number) => [buffer: Uint8Array, spoil: () => void]>> = {
  // The effect of `postMessage` on a transferred buffer.
  detached: (blocks) => {
    const memory = new ArrayBuffer(blocks * BLOCK);
    return [new Uint8Array(memory).fill(0x77), () => structuredClone(memory, { transfer: [memory] })];
  },
  shrunk: (blocks) => {
    const memory = new ArrayBuffer(blocks * BLOCK, { maxByteLength: blocks * BLOCK });
    return [
      new Uint8Array(memory).fill(0x77),
      () => {
        memory.resize(BLOCK / 2);
      },
    ];
  },
};

void describe('a user’s buffer', () => {
  for (const [how, make] of Object.entries(ways)) {
    for (const blocks of [1, 64, 9000]) {
      const name = `of ${String(blocks)} blocks that is ${how}`;

      const refuses = async (transfer: (disk: NvmeNamespace, buffer: Uint8Array) => Promise<void>): Promise<Bench> => {
        const bench = await start();
        const { disk, fake } = bench;
        fake.disk.fill(0x55);
        const before = fake.disk.slice();
        let commands = 0;
        fake.fate = () => {
          commands++;
          return null;
        };
        const [buffer, spoil] = make(blocks);
        const transferred = transfer(disk, buffer);
        spoil();
        const error = await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', transferred);
        assert.match(error.message, /buffer/);
        assert.equal(commands, 0, 'no command was submitted');
        assert.deepEqual(fake.disk, before);
        return bench;
      };

      void it(`${name} before the write was submitted is not written`, async () => {
        await end(await refuses((disk, buffer) => disk.write(3, buffer)));
      });

      void it(`${name} before the read was submitted is not read into`, async () => {
        await end(await refuses((disk, buffer) => disk.read(0, buffer)));
      });

      void it(`${name} during the read is reported, and no block is lost`, async () => {
        const bench = await start();
        const { disk, fake } = bench;
        fake.fate = () => 'hang';
        const [buffer, spoil] = make(blocks);
        const read = disk.read(0, buffer);
        await until('the fake holds the commands', () => fake.hung.length > 0);
        spoil();
        for (const command of fake.hung.splice(0)) fake.complete(command, 0);
        await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', read);
        await end(bench);
      });

      void it(`${name} during the write is written as it was, and no block is lost`, async () => {
        const bench = await start();
        const { disk, fake } = bench;
        fake.fate = () => 'hang';
        const [buffer, spoil] = make(blocks);
        const write = disk.write(0, buffer);
        await until('the fake holds the commands', () => fake.hung.length > 0);
        spoil();
        for (const command of fake.hung.splice(0)) fake.complete(command, 0);
        await write;
        await end(bench);
      });
    }
  }
});
