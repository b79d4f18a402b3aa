import asyncio

from zmqgame_bus import Node


async def main():
    async with Node("billing", hub="tcp://127.0.0.1:7600") as node:
        receipt = await node.unicast("bot-0001", {"gift": 100})
        print(receipt.outcome)  # delivered: the player's client has handled it
        await node.host("billing-desk")  # what is sent to this name comes here
        async for message in node:
            print(message.value, flush=True)  # acked when this body is through


asyncio.run(main())
