// What a program does with completiond: ask, read a stream, cancel, keep a deadline, read an error.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	pb "completion/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

func ptr32(n int32) *int32     { return &n }
func ptr64(x float64) *float64 { return &x }
func str(text string) *string  { return &text }

func main() {
	socket := os.Getenv("COMPLETIOND_SOCKET")
	if socket == "" {
		socket = "/run/completiond/rpc.sock"
	}
	connection, err := grpc.Dial("unix:"+socket, grpc.WithInsecure())
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	completions := pb.NewCompletionsClient(connection)
	background := context.Background()

	request := &pb.CreateCompletionRequest{
		Model:       str("gpt-3.5-turbo-instruct"),
		Prompt:      &pb.CreateCompletionRequest_PromptString{PromptString: "Once upon a time"},
		Temperature: ptr64(0),
		MaxTokens:   ptr32(12),
	}

	// The whole answer.
	answer, err := completions.Create(background, request)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("unary:" + answer.Choices[0].GetText())

	// The same in pieces, as they are generated.
	stream, err := completions.CreateStream(background, request)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print("stream:")
	for {
		chunk, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil { // the answer was cut
			log.Fatal(err)
		}
		for _, choice := range chunk.Choices {
			fmt.Print(choice.GetText())
		}
	}
	fmt.Println()

	// Whoever has read enough cancels, and the generation stops.
	request.MaxTokens = ptr32(1000)
	cancellable, cancel := context.WithCancel(background)
	if stream, err = completions.CreateStream(cancellable, request); err != nil {
		log.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil {
		log.Fatal(err)
	}
	cancel()
	fmt.Println("cancelled after:" + first.Choices[0].GetText())

	// A time for everything, the wait for the upstream included.
	limited, done := context.WithTimeout(background, 200*time.Millisecond)
	defer done()
	_, err = completions.Create(limited, request)
	fmt.Println("deadline:", status.Code(err))

	// What is wrong, in fields.
	request.Temperature = ptr64(3)
	_, err = completions.Create(background, request)
	for _, detail := range status.Convert(err).Details() {
		if detail, ok := detail.(*pb.ErrorDetail); ok {
			fmt.Println("error:", status.Code(err), detail.GetReason(), detail.GetParam())
		}
	}
}
